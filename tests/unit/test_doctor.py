"""`dualpath doctor` on machines that tests make up: what can be served, what is missing, how to get it."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.errors import UserError
from dualpath.serving import doctor, gpus
from dualpath.serving.installation import Installation

ALL_CPU, TEXT_ON_CPU, ALL_GPU = "all on the CPU", "models on the GPU, text on the CPU", "all on the GPU"


@pytest.fixture
def machine(monkeypatch, tmp_path, model_repository):
    """machine(...) -> exit code and what `doctor --json` says of it, set-ups by name."""
    pytest.importorskip("pytriton", reason="needs dualpath[embedded]")

    def diagnose(
        gpu=False, torch=("2.13.0+cpu", None), lacking=("cudf", "cupy", "nvforest", "cuml"), cpp=(), libcuda=True
    ):
        monkeypatch.setattr(gpus, "gpu_visible", lambda: gpu)
        monkeypatch.setattr(gpus, "cards", lambda: ["NVIDIA L4, 23034 MiB, 580.10"] if gpu else [])
        monkeypatch.setattr(gpus, "torch_build", lambda: torch)
        monkeypatch.setattr(gpus, "not_installed", lambda *names: [name for name in names if name in lacking])
        if libcuda:
            monkeypatch.setattr(gpus, "no_driver_library", lambda: None)
        backends = tmp_path / "backends"
        for backend in cpp:
            (backends / backend).mkdir(parents=True)
        monkeypatch.setattr(
            doctor.installation,
            "find",
            lambda server="auto": Installation(tmp_path / "tritonserver", backends, tmp_path / "stub", (), not cpp),
        )
        monkeypatch.setattr(doctor.environment, "check_attached", lambda *_: None)
        done = CliRunner().invoke(app, ["doctor", "--json", "--model-repository", str(model_repository)])
        said = json.loads(done.output)
        return done.exit_code, said["machine"], {setup["name"]: setup for setup in said["setups"]}

    return diagnose


def test_a_laptop_serves_the_cpu_and_is_told_what_a_gpu_takes(machine):
    code, facts, setups = machine()
    assert (code, facts["GPU"]) == (0, "none")
    assert {name: setup["possible"] for name, setup in setups.items()} == {
        ALL_CPU: True,
        TEXT_ON_CPU: False,
        ALL_GPU: False,
    }
    assert (setups[ALL_CPU]["command"], setups[ALL_CPU]["never_run"]) == ("dualpath serve", "")
    assert setups[ALL_GPU]["missing"] == [
        "expected a GPU, got no /dev/nvidia0. Use a machine with an NVIDIA GPU and its driver.",
        "expected torch with CUDA, got torch 2.13.0+cpu. Run `pip install --force-reinstall torch`.",
        "expected RAPIDS, got no cudf and no cupy. Run `pip install 'dualpath[gpu]'`.",
    ]


def test_a_gpu_without_rapids_serves_the_models_and_what_was_never_run_is_called_so(machine):
    code, facts, setups = machine(gpu=True, torch=("2.13.0", "13.0"))
    assert (code, facts["GPU"]) == (0, "NVIDIA L4, 23034 MiB, 580.10")
    models = setups[TEXT_ON_CPU]
    assert (models["possible"], models["command"]) == (True, "dualpath serve --config-name gpu-models")
    assert models["engines"]["bert-large"] == "torch 2.13.0, CUDA 13.0"
    assert "on the CPU" in models["engines"]["cuml"]
    assert models["never_run"] == "never run on a GPU by this project (docs/gpu.md)"
    assert [line.partition(",")[0] for line in setups[ALL_GPU]["missing"]] == ["expected RAPIDS"]


@pytest.mark.parametrize(("lacking", "forest"), [((), "nvforest"), (("nvforest",), "cuml")])
def test_with_rapids_all_is_on_the_gpu(machine, lacking, forest):
    _, _, setups = machine(gpu=True, torch=("2.13.0", "13.0"), lacking=lacking)
    setup = setups[ALL_GPU]
    assert (setup["possible"], setup["engines"]["text"], setup["engines"]["cuml"]) == (True, "cuDF and CuPy", forest)


def test_a_server_with_cpp_backends_needs_no_torch(machine):
    _, _, setups = machine(gpu=True, torch=None, lacking=("torch",), cpp=("pytorch", "fil", "python"))
    assert setups[TEXT_ON_CPU]["possible"]
    assert setups[TEXT_ON_CPU]["engines"]["bert-large"] == "C++ backend pytorch"
    assert setups[ALL_CPU]["never_run"] == "fil in C++ was never run by this project"


def test_a_driver_whose_library_triton_does_not_find_is_named(machine, monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", refuse)
    _, _, setups = machine(gpu=True, torch=("2.13.0", "13.0"), libcuda=False)
    assert setups[TEXT_ON_CPU]["missing"] == [
        "expected libcuda.so, the driver's library, got no such library. "
        "Install the NVIDIA driver; if only libcuda.so.1 is there, link libcuda.so to it."
    ]


def test_where_nothing_can_be_served_the_reason_and_exit_code_1_are_given(monkeypatch, tmp_path):
    def none(server="auto"):
        raise UserError("Triton server: expected one, got none. Run `pip install 'dualpath[embedded]'`.")

    monkeypatch.setattr(doctor.installation, "find", none)
    done = CliRunner().invoke(app, ["doctor", "--model-repository", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert "all on the CPU: no\n" in done.output
    assert "missing    Triton server: expected one, got none. Run `pip install 'dualpath[embedded]'`." in done.output
    assert "got no such folder" in done.output


def test_torchs_build_is_read_without_importing_it():
    script = "import sys; from dualpath.serving import gpus; print(gpus.torch_build()[0], 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    import torch

    assert said == [torch.__version__, "False"]
    assert gpus.torch_build()[1] == torch.version.cuda
