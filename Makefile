.DEFAULT_GOAL := help
.PHONY: help setup build demo serve test lint bench prove check-rapids gpu gpu-wheels chaos clean

# The first Python on PATH that the embedded server supports; `make PYTHON=/path/to/python3.12 demo` chooses another.
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; \
	done)
BIN := .venv/bin
INSTALLED := .venv/installed

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Dualpath needs Python 3.11 or 3.12 on PATH (or make PYTHON=...)." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# Tests read KServe's models; the package itself wants another psutil than this one.
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps kserve six
	@touch $@

setup: $(INSTALLED)  ## Create .venv with the pinned dependencies

build: setup  ## Build the model artifacts (skipped if they are up to date)
	$(BIN)/dualpath build

demo: build  ## Score a handful of excerpts both ways, on a server of its own
	$(BIN)/dualpath demo

serve: build  ## Serve both models until Ctrl-C
	$(BIN)/dualpath serve

# Three processes for two cores: tests spend a third of their time waiting for servers.
test: build  ## Run the unit tests and the tests against a real Triton, in three processes
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 15

lint: setup  ## Check style and types, and the Dockerfile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile deploy/Dockerfile.cpu

bench: build  ## Measure the orchestrator against the ensemble, about 20 minutes on an idle machine
	$(BIN)/python benchmarks/orchestrator.py $(if $(INPUT),--input $(INPUT))

prove: build  ## Long proofs: random ensembles answer like their BLS models; the gate tells wrong models from right ones; scale
	$(BIN)/python tools/gpu.py --rehearse
	$(BIN)/python tests/prove_ensembles.py
	$(BIN)/python tests/prove_gate.py
	$(BIN)/python tests/prove_scale.py
	DUALPATH_RANDOM_PIPELINES=512 DUALPATH_RANDOM_TEXTS=10000 $(BIN)/python -m pytest -q \
		tests/unit/test_bls_random_pipelines.py tests/unit/test_device.py

# The release that deploy/ names; `make RAPIDS=26.10.* check-rapids` checks another.
RAPIDS ?= $(shell sed -n 's/^cudf-cu13==//p' deploy/constraints.txt)

check-rapids: build  ## Hold the GPU code's calls against the real RAPIDS, without a GPU; installs 4.5 GB of its own
	$(PYTHON) -m venv .venv-rapids
	.venv-rapids/bin/python -m pip install --disable-pip-version-check --only-binary :all: \
		'cudf-cu13==$(RAPIDS)' 'cuml-cu13==$(RAPIDS)' cupti-python
	.venv-rapids/bin/python tools/check_rapids.py

gpu: $(if $(WHEELS),,build)  ## Prove and measure the pipeline on a GPU: gpu-results/gpu.md; ONLY=part,..., WHEELS=folder, REHEARSE=1
	$(if $(WHEELS),$(PYTHON),$(BIN)/python) tools/gpu.py $(if $(WHEELS),--wheels $(WHEELS)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(REHEARSE),--rehearse) $(if $(INPUT),--input $(INPUT))

# For a machine without a network: Linux x86-64, Python 3.12 (or FOR=3.11). Without gpu in EXTRAS it has no RAPIDS.
FOR ?= 3.12
EXTRAS ?= cli,compare,embedded,gpu,models
gpu-wheels: setup  ## Fill WHEELS=folder with what `make gpu WHEELS=folder` installs, gigabytes of it
	$(BIN)/python -m pip wheel --no-deps --wheel-dir $(WHEELS) .
	$(BIN)/python -m pip download --only-binary :all: --python-version $(FOR) --implementation cp \
		$(foreach glibc,35 34 31 28 27 26 24 17 12 5,--platform manylinux_2_$(glibc)_x86_64) \
		$(foreach year,2014 2010 1,--platform manylinux$(year)_x86_64) \
		--constraint constraints.txt --find-links $(WHEELS) --dest $(WHEELS) 'dualpath[$(EXTRAS)]' hypothesis pytest

chaos: build  ## Break a served pipeline in every way under load, about 15 minutes; ONLY="kill -9" runs some of the rows
	$(BIN)/python tools/chaos $(if $(ONLY),"$(ONLY)")

clean:  ## Remove .venv and the model artifacts
	rm -rf .venv .venv-rapids .venv-gpu model_repository/bert-large/1 model_repository/cuml/1
