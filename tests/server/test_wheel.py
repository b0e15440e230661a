"""The wheel: it brings NumPy alone, and the example of docs/bls.md runs with it, in pytest and on the real Triton.

With `[compare]` it compares two models of a server, by the oldest tritonclient that is admitted.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from starting import start

import doc_blocks
from paths import ROOT

PYTHONS = {
    ".".join(python.parents[1].name.split(".")[:2]): str(python)
    for python in sorted(Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python"))
} | {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
"""An interpreter of each version that this machine has, 3.11 and later."""

CHILD = """
import numpy as np
import triton_python_backend_utils as pb_utils
from test_scene import CHILDREN


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = CHILDREN["NAME"](inputs)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
"""
CAPTIONS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for word in (b"a", b"day"):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("word", np.array([[word]], np.object_))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
BITS = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        [tensor] = request.inputs()
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("Y", tensor.to_dlpack())])
"""
EMBEDDING = '{ name: "embedding" data_type: TYPE_FP32 dims: [ 3 ] }'
TENSORS = {
    "encoder": ('{ name: "image" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] }', EMBEDDING),
    "scenes": (EMBEDDING, '{ name: "label" data_type: TYPE_STRING dims: [ 1 ] }'),
    "objects": (
        EMBEDDING,
        '{ name: "boxes" data_type: TYPE_FP32 dims: [ 2, 4 ] }, { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] }',
    ),
    "captions": (EMBEDDING, '{ name: "word" data_type: TYPE_STRING dims: [ 1 ] }'),
}
IMAGES = np.stack([np.full((3, 8, 8), value, np.uint8) for value in (255, 0)])


def run(*command, cwd=None):
    """Run a command without the checkout's environment; return its output."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout, so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).rstrip("\0").split("\0"):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source)
    [built] = folder.glob("dualpath-*.whl")
    return built


def empty_environment(python, folder):
    """Return the interpreter of a new environment, and the pip that installs into it."""
    run(python, "-m", "venv", "--without-pip", folder)
    target = folder / "bin" / "python"
    return target, [sys.executable, "-m", "pip", "--python", target, "--disable-pip-version-check", "--no-input"]


def install(wheel, python, folder):
    """Install the wheel into an empty environment; return its interpreter and what was installed."""
    target, pip = empty_environment(python, folder)
    # The pinned NumPy has no wheels for Python 3.13.
    pinned = ["--constraint", ROOT / "constraints.txt"] if python == sys.executable else []
    run(*pip, "install", "-q", "--only-binary", ":all:", *pinned, wheel)
    installed = {each["name"] for each in json.loads(run(*pip, "list", "--format", "json"))}
    run(*pip, "install", "-q", "--only-binary", ":all:", "pytest")
    return target, installed


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The wheel, installed in an environment in the folder of the example's model, and what came with it."""
    repository = tmp_path_factory.mktemp("scene")
    doc_blocks.write_example(repository)
    return repository, *install(wheel, sys.executable, repository / "scene" / "env")


def test_the_wheel_brings_numpy_alone(environment):
    assert environment[2] == {"dualpath", "numpy"}


@pytest.mark.parametrize("version", [version for version in PYTHONS if PYTHONS[version] != sys.executable])
def test_the_example_runs_on_each_python(wheel, tmp_path, version):
    python, installed = install(wheel, PYTHONS[version], tmp_path / "env")
    assert installed == {"dualpath", "numpy"}
    doc_blocks.write_example(tmp_path)
    assert "2 passed" in run(python, "-m", "pytest", "-q", "-W", "error", "test_scene.py", cwd=tmp_path)


def test_the_example_runs_outside_the_checkout(environment):
    repository, python, _ = environment
    where = run(python, "-c", "import dualpath.bls; print(dualpath.bls.__file__)", cwd=repository)
    assert Path(where.strip()).is_relative_to(repository / "scene" / "env")
    assert "2 passed" in run(python, "-m", "pytest", "-q", "-W", "error", "test_scene.py", cwd=repository)


def test_a_command_of_the_bare_wheel_names_the_extra(environment):
    done = subprocess.run([environment[1].parent / "dualpath", "--help"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "dualpath: package typer: expected it to be installed, got none. Run `pip install 'dualpath[cli]'`.\n"
    )


@pytest.fixture(scope="module")
def triton(environment):
    """The real Triton with the example, which runs in its own environment, its children, and the page's sections."""
    repository = environment[0]
    models = repository / "models"
    models.mkdir()
    shutil.copytree(repository / "scene", models / "scene", symlinks=True)
    run_in = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env" } }\n'
    with (models / "scene" / "config.pbtxt").open("a") as config:
        config.write(run_in)
    for section in ("batching", "conditions", "deadlines", "fallback", "streaming"):
        doc_blocks.write_section(models, section, decoupled=section == "streaming")
    for name, (inputs, outputs) in TENSORS.items():
        version = models / name / "1"
        version.mkdir(parents=True)
        shutil.copy(repository / "test_scene.py", version)
        (version / "model.py").write_text(CAPTIONS if name == "captions" else CHILD.replace("NAME", name))
        (models / name / "config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 8\ninput [ {inputs} ]\noutput [ {outputs} ]\n'
            "instance_group [ { kind: KIND_CPU } ]\n"
            + "model_transaction_policy { decoupled: true }\n"
            * (name == "captions")
        )
    (models / "bits" / "1").mkdir(parents=True)
    (models / "bits" / "1" / "model.py").write_text(BITS)
    (models / "bits" / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 8\ninstance_group [ { kind: KIND_CPU } ]\n'
        'input [ { name: "X" data_type: TYPE_BF16 dims: [ -1 ] } ]\n'
        'output [ { name: "Y" data_type: TYPE_BF16 dims: [ -1 ] } ]\n'
    )
    with start(models) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton):
    with grpcclient.InferenceServerClient(triton.grpc_url) as client:
        yield client


def image_input(images):
    tensor = grpcclient.InferInput("image", images.shape, "UINT8")
    return [tensor.set_data_from_numpy(images)]


def test_the_example_is_served_from_an_environment_in_its_folder(client):
    answer = client.infer("scene", image_input(IMAGES))
    assert answer.as_numpy("label").tolist() == [[b"day"], [b"night"]]
    assert answer.as_numpy("scores").tolist() == [[1, 1], [0, 0]]
    assert answer.as_numpy("boxes").shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("section", "output", "expected"),
    [
        ("batching", "scores", [[1, 1], [0, 0]]),
        ("conditions", "label", [[b"day"], [b"dark"]]),
        ("deadlines", "scores", [[1, 1], [0, 0]]),
        ("fallback", "label", [[b"day"], [b"night"]]),
    ],
)
def test_the_lines_of_each_section_are_served(client, section, output, expected):
    assert client.infer(section, image_input(IMAGES)).as_numpy(output).tolist() == expected


def test_answers_are_streamed(client):
    words, ended = [], threading.Event()

    def take(result, error):
        assert error is None, error
        if result.get_response().parameters["triton_final_response"].bool_param:
            ended.set()
        else:
            words.append(result.as_numpy("label").tolist())

    client.start_stream(take)
    client.async_stream_infer("streaming", image_input(IMAGES[:1]), enable_empty_final_response=True)
    assert ended.wait(20)
    client.stop_stream()
    assert words == [[[b"a"]], [[b"day"]]]


def test_models_are_compared_without_a_checkout_by_the_oldest_tritonclient(wheel, triton, tmp_path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [oldest] = [it.partition(">=")[2] for it in extras["cli"] if it.startswith("tritonclient")]
    python, pip = empty_environment(sys.executable, tmp_path / "env")
    run(
        *pip,
        "install",
        "-q",
        "--no-compile",
        "--only-binary",
        ":all:",
        f"{wheel}[compare]",
        f"tritonclient[grpc]=={oldest}",
    )
    # BF16 of free dimensions, as Base64: tritonclient 2.51 reads other numbers from it.
    values = [[1.5, -2.0, 0.15625], [65280.0, 0.0, -0.5], [3.0, 1e30, -1e-30]]
    bits = [(np.array(row, np.float32).view(np.uint32) >> 16).astype("<u2") for row in values]
    exact = [(it.astype(np.uint32) << 16).view(np.float32).tolist() for it in bits]
    path = tmp_path / "rows.json"
    data = [{"X": {"content": {"b64": base64.b64encode(it.tobytes()).decode()}, "shape": [3]}} for it in bits]
    path.write_text(json.dumps({"data": data, "validation_data": [{"Y": row} for row in exact]}))
    report = tmp_path / "report"
    quick = ["--batch", "4", "--concurrency", "2", "--duration", "0.2", "--json", "--report", report]
    out = run(python.parent / "dualpath", "compare", "bits", "bits", "--url", triton.grpc_url, "--input", path, *quick)
    result = json.loads(out)
    assert [(it["baseline"], it["other"], it["n_rows"], it["n_equal"]) for it in result["parity"]] == [
        ("bits", "bits (again)", 3, 3),
        ("validation_data", "bits", 3, 3),
        ("validation_data", "bits (again)", 3, 3),
    ]
    assert (report / "index.html").is_file()
