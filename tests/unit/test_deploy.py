"""That the files for a GPU deployment say the same as docs/deploy.md, and as each other."""

import re
import subprocess
import sys
import tomllib

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as proto

from paths import REPOSITORY, ROOT

DOCS = (ROOT / "docs" / "deploy.md").read_text()
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PINS = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "deploy" / "constraints.txt").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_both_stages_are_the_image_that_the_docs_name():
    [image] = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert f"| image | `{image}`" in DOCS


@pytest.mark.parametrize(("part", "package"), [("Treelite", "treelite"), ("torch", "torch")])
def test_artifacts_are_built_with_the_versions_that_the_docs_name(part, package):
    assert re.search(rf"^\| {part} \| {re.escape(PINS[package])}\b", DOCS, re.MULTILINE)


def test_rapids_is_the_release_that_the_docs_name():
    [requirement] = [each for each in EXTRAS["gpu"] if each.startswith("cudf")]
    assert requirement == f"cudf-cu13=={PINS['cudf-cu13'].rpartition('.')[0]}.*"
    year, month, _ = PINS["cudf-cu13"].split(".")
    assert f"| RAPIDS | {year}.{int(month):02}," in DOCS


def test_rapids_leaves_the_embedded_server_its_numpy_and_torch_its_cuda():
    assert not [each for each in EXTRAS["gpu"] if each.startswith(("numpy", "cuda-toolkit"))]
    assert PINS["numpy"].startswith("2.")  # what goes with Triton 26.06 is pinned for the container alone


def with_extras(extra):
    """The requirements of an extra, and of those that it names."""
    for requirement in EXTRAS[extra]:
        own = re.fullmatch(r"dualpath\[(.+)\]", requirement)
        yield from (each for name in own[1].split(",") for each in with_extras(name)) if own else [requirement]


def test_make_demo_and_make_test_install_no_rapids():
    command = ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}", "demo", "test"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs, models = [line for line in said.splitlines() if "pip install" in line]
    assert installs.endswith("--constraint constraints.txt --editable '.[dev]'")
    assert models.endswith("--constraint constraints.txt --no-deps kserve six")
    installed = [*with_extras("dev"), *(ROOT / "constraints.txt").read_text().splitlines()]
    assert any(each.startswith("nvidia-pytriton==") for each in installed)
    assert not [each for each in installed if re.match("cudf|cuml|cupy|rmm", each)]


@pytest.mark.parametrize("config", ["config.pbtxt", "configs/gpu.pbtxt"])
def test_the_forest_is_a_regressor_to_fil_before_and_after_25_09(config):
    parsed = text_format.Parse((REPOSITORY / "cuml" / config).read_text(), proto.ModelConfig())
    assert {parsed.parameters[name].string_value for name in ("output_class", "is_classifier")} == {"false"}
