"""The models as an instance of KIND_GPU runs them, on a device that pandas and NumPy play."""

import ast
import subprocess
import sys

import fake_triton
import numpy as np
import pytest
from bls_driver import error_of
from fake_rapids import DeviceArray, FakeDevice, FakeModule, on_host
from fake_triton import TritonError, received
from loaded_models import EXCERPTS, args, load

import gpu_reference
from dualpath.bls import ConfigError, ModelConfig
from dualpath.bls.request import Arrival, Request
from dualpath.readability import device as device_code
from dualpath.readability.contract import TOLERANCES
from dualpath.readability.samples import SAMPLES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from paths import ROOT

RAPIDS = {"cudf", "cuml", "cupy", "nvforest", "pylibcudf", "rmm"}


@pytest.fixture
def device(monkeypatch, model_repository):
    device = FakeDevice()
    monkeypatch.setattr(device_code, "load_rapids", device.rapids)
    monkeypatch.setitem(sys.modules, "cupy", FakeModule(device, "cupy", np))
    return device


@pytest.fixture
def served(device):
    """served(name, kind) -> a function that sends a request to the model and returns its answer."""
    models = []

    def serve(name, kind="GPU"):
        model = load(name)
        model.initialize(args(name, kind))
        models.append(model)

        def ask(**inputs):
            request = received(**{name: array.copy() for name, array in inputs.items()})
            request.end_of_execute(model.execute([request])[0])
            assert request.answered.wait(5)
            assert request.violations == []
            return request.answers[0]

        return ask

    yield serve
    for model in models:
        if hasattr(model, "finalize"):
            model.finalize()


def test_preprocess_gives_on_the_gpu_what_it_gives_on_the_cpu(served):
    on_gpu, on_cpu = (served("preprocess", kind)(INPUT0=EXCERPTS) for kind in ("GPU", "CPU"))
    assert [tensor.is_cpu() for tensor in on_gpu.output_tensors()] == [False] * 3
    for name, expected in on_cpu.arrays().items():
        got = on_host(on_gpu.arrays()[name])
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_postprocess_combines_scores_where_they_lie(device, served):
    weights = np.array([[0.0], [0.25], [1.0]], np.float32)
    scores = {"BERT_LARGE_SCORE": [[np.nan], [1.0], [2.0]], "CUML_SCORE": [[-1.0], [3.0], [np.inf]]}
    for weights_there in (weights, device.array(weights)):
        answer = served("postprocess")(
            BERT_WEIGHT_INPUT=weights_there, **{name: device.array(rows, np.float32) for name, rows in scores.items()}
        )
        [tensor] = answer.output_tensors()
        assert not tensor.is_cpu()
        assert on_host(tensor.array()).tolist() == [[-1.0], [2.5], [2.0]]


def test_postprocess_refuses_weights_on_the_gpu_by_row(device, served):
    rows = device.array([[0.5], [2.0]], np.float32)
    answer = served("postprocess")(BERT_WEIGHT_INPUT=rows, BERT_LARGE_SCORE=rows, CUML_SCORE=rows)
    assert error_of(answer) == (
        TritonError.INVALID_ARG,
        "BERT_WEIGHT[1]: expected a number from 0 to 1, got 2. Correct it.",
    )


def test_orchestrator_hands_gpu_tensors_to_its_children_as_they_are(device, served):
    """Children give scores that depend on all they receive, so that equal scores mean equal inputs."""
    seen = []

    def child(output, *inputs):
        def run(given):
            seen.extend(given.values())
            host = [on_host(given[name]).astype(np.float64) for name in inputs]
            totals = sum((rows * np.arange(1, rows.shape[1] + 1)).sum(1) for rows in host)
            return {output: np.float32(totals[:, None] % 97)}

        return run

    fake_triton.CHILDREN["bert-large"] = child("OUTPUT__0", "INPUT__0", "INPUT__1")
    fake_triton.CHILDREN["cuml"] = child("output__0", "input__0")
    weights = np.array([[0], [1], *[[0.5]] * (len(SAMPLES) - 2)], np.float32)
    on_cpu = served("orchestrator", "CPU")(excerpt=EXCERPTS, BERT_WEIGHT=weights).arrays()
    assert {type(array) for array in seen} == {np.ndarray}
    seen.clear()

    for weights_there in (weights, device.array(weights)):
        on_gpu = served("orchestrator", "GPU")(excerpt=EXCERPTS, BERT_WEIGHT=weights_there).arrays()
        assert on_gpu["ROUTE"].tolist() == on_cpu["ROUTE"].tolist()
        np.testing.assert_allclose(on_gpu["SCORE"], on_cpu["SCORE"], rtol=0, atol=TOLERANCES["float32"])
    assert {type(array) for array in seen} == {DeviceArray}
    assert {call.preferred_memory.kind for call in fake_triton.CALLS} == {fake_triton.TRITONSERVER_MEMORY_CPU}


def test_an_instance_runs_on_the_gpu_that_triton_chose():
    assert ModelConfig(args("preprocess", "GPU", device_id="1")).gpu == 1
    assert ModelConfig(args("preprocess", "CPU", device_id="0")).gpu is None


def test_an_instance_whose_kind_is_left_to_the_model_is_refused_with_what_to_do():
    with pytest.raises(ConfigError) as caught:
        _ = ModelConfig(args("preprocess", "CPU") | {"model_instance_kind": "MODEL"}).gpu
    assert str(caught.value) == (
        "preprocess: expected an instance group of KIND_CPU or KIND_GPU, got KIND_MODEL. "
        "Name the kind in its instance_group."
    )


def test_inputs_on_the_gpu_outlive_execute(device):
    request = received(x=device.array([[1.0]]))
    kept = Request([Arrival(request, has_batch=True)], outlives_execute=True)
    request.arrays["x"].fill(-1)
    assert on_host(kept.inputs["x"]).tolist() == [[1]]


def test_scores_that_a_gpu_is_held_against_are_the_cpus(model_repository, reference):
    built = Facts.of(newest(model_repository / "bert-large"))
    if built.encoder != gpu_reference.ON_CPU["encoder"]:
        pytest.skip(f"the scores are of {gpu_reference.ON_CPU['encoder']}, the models of {built.encoder}")
    atol = TOLERANCES[built.precision]
    np.testing.assert_allclose(
        reference.score(gpu_reference.EXCERPTS, gpu_reference.WEIGHTS),
        gpu_reference.ON_CPU["scores"],
        rtol=0,
        atol=atol,
    )


def test_no_cpu_path_imports_rapids(model_repository):
    """A process of its own runs each Python model on the CPU, then says which modules it has.

    RAPIDS is not installed here, so an attempt to import it counts, also where the code would go on without.
    """
    script = f"""
import sys
class Refusing:
    def find_spec(name, path=None, target=None):
        assert name.partition(".")[0] not in {RAPIDS}, name + " is imported"
sys.meta_path.insert(0, Refusing)
sys.path[:0] = {[str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "unit")]}
import conftest, fake_triton, numpy as np
sys.modules["triton_python_backend_utils"] = fake_triton
from loaded_models import EXCERPTS, args, load
import dualpath.cli, dualpath.readability.reference
fake_triton.CHILDREN["bert-large"] = lambda inputs: {{"OUTPUT__0": np.zeros((len(inputs["INPUT__0"]), 1), np.float32)}}
fake_triton.CHILDREN["cuml"] = lambda inputs: {{"output__0": np.zeros((len(inputs["input__0"]), 1), np.float32)}}
half = np.full((len(EXCERPTS), 1), 0.5, np.float32)
for name, inputs in {{
    "preprocess": {{"INPUT0": EXCERPTS}},
    "postprocess": {{"BERT_WEIGHT_INPUT": half, "BERT_LARGE_SCORE": half, "CUML_SCORE": half}},
    "orchestrator": {{"excerpt": EXCERPTS, "BERT_WEIGHT": half}},
}}.items():
    model = load(name)
    model.initialize(args(name, "CPU"))
    request = fake_triton.received(**{{name: array.copy() for name, array in inputs.items()}})
    request.end_of_execute(model.execute([request])[0])
    assert request.answered.wait(5) and not request.answers[0].has_error()
    getattr(model, "finalize", lambda: None)()
print(*sorted({{module.partition(".")[0] for module in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "tokenizers" in imported
    assert imported.isdisjoint({*RAPIDS, "pandas"})


def test_stand_ins_on_the_cpu_neither_import_rapids_nor_start_cuda(model_repository):
    script = f"""
import sys
class Refusing:
    def find_spec(name, path=None, target=None):
        assert name.partition(".")[0] not in {RAPIDS}, name + " is imported"
sys.meta_path.insert(0, Refusing)
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests" / "unit")]}
import fake_triton, json, numpy as np, torch
sys.modules["triton_python_backend_utils"] = fake_triton
def refuse():
    raise AssertionError("CUDA starts")
torch.cuda._lazy_init = torch.cuda.init = refuse
from google.protobuf import json_format
from test_backends import load
from dualpath.inference.torch_model import TorchModel
from dualpath.repository import configs
from paths import REPOSITORY
inputs = {{"bert-large": {{"INPUT__0": np.ones((1, 8), np.int64), "INPUT__1": np.ones((1, 8), np.int64)}},
          "cuml": {{"input__0": np.zeros((1, 207), np.float32)}}}}
for name, backend in (("bert-large", "pytorch"), ("cuml", "fil")):
    config = json_format.MessageToDict(configs.read(REPOSITORY / name), preserving_proto_field_name=True)
    model = load(backend)
    model.initialize({{"model_config": json.dumps(config), "model_name": name, "model_version": "1",
                      "model_repository": str(REPOSITORY / name), "model_instance_kind": "CPU"}})
    [response] = model.execute([fake_triton.received(**inputs[name])])
    assert not response.has_error(), response.error().message()
TorchModel(REPOSITORY / "bert-large/1/model.pt").run(list(inputs["bert-large"].values()))
print("served")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr


def test_rapids_is_imported_inside_functions_alone():
    files = [path for folder in ("src", "model_repository") for path in (ROOT / folder).rglob("*.py")]
    assert {path.parent.name for path in files} >= {"readability", "fil", "1"}
    for path in files:
        loaded = {name.partition(".")[0] for name in imported_on_loading(ast.parse(path.read_text(encoding="utf-8")))}
        assert loaded.isdisjoint(RAPIDS), path


def imported_on_loading(node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
    elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in ast.iter_child_nodes(node):
            yield from imported_on_loading(child)
