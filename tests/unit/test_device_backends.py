"""The stand-ins as instances of KIND_GPU run them, torch's CPU in its place: one switch, `torch_model.TYPE`."""

import sys
from types import ModuleType, SimpleNamespace

import fake_triton
import numpy as np
import pytest
import torch
from fake_triton import received
from test_backends import NoTensor, fil_args, folder, forest, load, tensor, torch_args  # noqa: F401

from dualpath.inference import EngineError, torch_model


@pytest.fixture
def torch_is_the_device(monkeypatch):
    monkeypatch.setattr(torch_model, "TYPE", "cpu")


@pytest.fixture
def no_host(monkeypatch):
    """Whatever takes a tensor to the host fails; what is handed to Triton is listed."""
    given = []
    as_it_is = fake_triton.Tensor.from_dlpack.__func__

    def from_dlpack(cls, name, array):
        given.append((name, type(array)))
        return as_it_is(cls, name, array)

    def refuse(*_, **__):
        raise AssertionError("a tensor goes through the host")

    monkeypatch.setattr(fake_triton.Tensor, "from_dlpack", classmethod(from_dlpack))
    for name in ("numpy", "cpu", "tolist", "item", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    return given


def on_gpu(args, number="0"):
    return args | {"model_instance_kind": "GPU", "model_instance_device_id": number}


@pytest.fixture
def pytorch(torch_is_the_device, torch_args):  # noqa: F811
    model = load("pytorch")
    model.initialize(on_gpu(torch_args()))
    yield model
    model.finalize()


def test_pytorch_merges_and_splits_tensors_on_the_device_without_the_host(pytorch, no_host):
    first, second = torch.arange(6, dtype=torch.float32).reshape(3, 2), torch.tensor([[7.0, 9.0]])
    requests = [received(IN__1=rows, IN__0=rows * 3) for rows in (first, second)]
    answers = [response.arrays() for response in pytorch.execute(requests)]
    assert no_host == [("OUT__0", torch.Tensor), ("OUT__1", torch.Tensor)] * 2
    assert [answer["OUT__0"].tolist() for answer in answers] == [[[0, 2], [4, 6], [8, 10]], [[14, 18]]]
    assert [answer["OUT__1"].tolist() for answer in answers] == [[[3], [39], [123]], [[390]]]


def test_pytorch_takes_tensors_from_the_host_and_answers_on_the_device(pytorch, no_host):
    rows = np.array([[1, 2]], np.float32)
    [response] = pytorch.execute([received(IN__1=rows, IN__0=torch.tensor([[5.0, 5.0]]))])
    assert response.arrays()["OUT__0"].tolist() == [[4, 3]]
    assert {kind for _, kind in no_host} == {torch.Tensor}


def test_pytorch_answers_each_request_alone_if_the_merged_call_fails(pytorch):
    good, bad = torch.ones(1, 2), torch.ones(1, 3)
    answered, failed = pytorch.execute([received(IN__0=good, IN__1=good), received(IN__0=bad, IN__1=good)])
    assert answered.arrays()["OUT__1"].tolist() == [[2]]
    assert failed.has_error()


def test_pytorch_says_what_computes(pytorch):
    version = torch.__version__.partition("+")[0]
    assert pytorch.model.engine == f"torch {version} on the CPU"
    assert ("info", f"m: served by torch {version} on the CPU.") in fake_triton.LOGGED


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bool, torch.int8, torch.int64])
def test_pytorch_keeps_the_dtype_of_tensors_on_the_device(torch_is_the_device, torch_args, dtype):  # noqa: F811
    class Same(torch.nn.Module):
        def forward(self, a: torch.Tensor):
            return a

    names = {torch.float16: "FP16", torch.float32: "FP32", torch.float64: "FP64", torch.bool: "BOOL"}
    name = names.get(dtype) or str(dtype).partition(".")[2].upper()
    model = load("pytorch")
    ends = {"inputs": [tensor("IN__0", [1], f"TYPE_{name}")], "outputs": [tensor("OUT__0", [1], f"TYPE_{name}")]}
    model.initialize(on_gpu(torch_args(Same(), **ends)))
    [response] = model.execute([received(IN__0=torch.tensor([[1], [0]]).to(dtype))])
    got = response.arrays()["OUT__0"]
    assert got.dtype.name == str(dtype).partition(".")[2]
    assert got.tolist() == [[1], [0]]


def test_pytorch_gives_contiguous_rows_whatever_the_model_does(torch_is_the_device, torch_args):  # noqa: F811
    class Turned(torch.nn.Module):
        def forward(self, a: torch.Tensor):
            return a.t().contiguous().t()

    model = load("pytorch")
    model.initialize(
        on_gpu(torch_args(Turned(), inputs=[tensor("IN__0", [2])], outputs=[tensor("OUT__0", [2])], parameters={}))
    )
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    answers = model.execute([received(IN__0=rows[:1]), received(IN__0=rows[1:])])
    assert [answer.arrays()["OUT__0"].tolist() for answer in answers] == [[[1, 2]], [[3, 4], [5, 6]]]


def test_pytorch_names_a_torch_without_cuda(torch_args):  # noqa: F811
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    with pytest.raises(EngineError, match=r"torch: expected a build with CUDA for KIND_GPU, got .*--force-reinstall"):
        load("pytorch").initialize(on_gpu(torch_args()))


def test_pytorch_names_a_gpu_that_torch_cannot_use(monkeypatch, torch_args):  # noqa: F811
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match=r"expected GPU 1 and a driver for CUDA 13\.0, got 1 usable GPUs"):
        load("pytorch").initialize(on_gpu(torch_args(), "1"))


def test_pytorch_says_what_the_model_gave_if_it_is_no_tensor(torch_is_the_device, torch_args):  # noqa: F811
    model = load("pytorch")
    ends = {"inputs": [tensor("IN__0", [1])], "outputs": [tensor("OUT__0", [1])]}
    model.initialize(on_gpu(torch_args(NoTensor(), parameters={}, **ends)))
    [response] = model.execute([received(IN__0=torch.ones(1, 1))])
    assert "expected 1 tensors from the model" in response.error().message()


class Forest:
    """nvForest, or cuML's FIL: Treelite's predictions, and a record of how it was loaded."""

    def __init__(self, predict_on):
        self.loaded, self.predict_on = [], predict_on

    def load(self, path, **options):
        import treelite

        self.loaded.append(options)
        model = treelite.Model.deserialize(path)
        return SimpleNamespace(predict=lambda rows: self.predict_on(model, rows))


@pytest.fixture
def library(monkeypatch):
    """library(name) -> that library and no other is installed; its arrays lie on a device that NumPy plays."""
    from fake_rapids import FakeDevice, FakeModule, on_host

    fake = FakeDevice()
    monkeypatch.setitem(sys.modules, "cupy", FakeModule(fake, "cupy", np))

    def predict_on(model, rows):
        import treelite

        return fake.array(treelite.gtil.predict(model, on_host(rows), nthread=1).astype(np.float64))

    def install(name):
        forest = Forest(predict_on)  # noqa: F811
        for each in ("nvforest", "cuml", "cuml.fil"):
            monkeypatch.setitem(sys.modules, each, None)
        if name == "nvforest":
            module = ModuleType("nvforest")
            module.__version__, module.load_model = "26.06.00", forest.load
            monkeypatch.setitem(sys.modules, "nvforest", module)
        elif name == "cuml":
            cuml, fil = ModuleType("cuml"), ModuleType("cuml.fil")
            cuml.__version__, fil.ForestInference = "25.10.00", forest
            monkeypatch.setitem(sys.modules, "cuml", cuml)
            monkeypatch.setitem(sys.modules, "cuml.fil", fil)
        return fake, forest

    return install


ROWS = np.random.default_rng(1).random((7, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "engine", "options"),
    [
        ("nvforest", "nvForest 26.06.00", {"model_type": "treelite_checkpoint", "device": "gpu", "device_id": 1}),
        (
            "cuml",
            "FIL of cuML 25.10.00",
            {"model_type": "treelite_checkpoint", "is_classifier": False, "device_id": 1},
        ),
    ],
)
def test_fil_predicts_where_the_rows_lie_by_what_is_installed(library, fil_args, forest, name, engine, options):  # noqa: F811
    device, installed = library(name)
    model = load("fil")
    model.initialize(on_gpu(fil_args(), "1"))
    responses = model.execute([received(input__0=device.array(ROWS[:2])), received(input__0=device.array(ROWS[2:]))])
    assert installed.loaded == [options]
    assert ("info", f"m: served by {engine} on GPU 1.") in fake_triton.LOGGED
    tensors = [tensor for response in responses for tensor in response.output_tensors()]
    assert not any(tensor.is_cpu() for tensor in tensors)
    got = np.concatenate([tensor.array().get() for tensor in tensors])
    assert (got.dtype, got.shape) == (np.float32, (7, 1))
    np.testing.assert_allclose(got[:, 0], forest[0].predict(ROWS), rtol=1e-6)


def test_fil_takes_rows_from_the_host_to_the_gpu(library, fil_args, forest):  # noqa: F811
    library("nvforest")
    model = load("fil")
    model.initialize(on_gpu(fil_args()))
    [response] = model.execute([received(input__0=ROWS)])
    [scores] = response.output_tensors()
    assert not scores.is_cpu()
    np.testing.assert_allclose(scores.array().get()[:, 0], forest[0].predict(ROWS), rtol=1e-6)


def test_fil_without_rapids_predicts_on_the_cpu_and_says_so_in_one_line(library, fil_args, forest):  # noqa: F811
    device, _ = library(None)
    model = load("fil")
    model.initialize(on_gpu(fil_args()))
    warnings = [message for severity, message in fake_triton.LOGGED if severity == "warn"]
    assert warnings == [
        "m: expected nvForest or cuML for KIND_GPU, got neither: the forest runs on the CPU. "
        "Run `pip install 'dualpath[gpu]'`."
    ]
    for rows in (ROWS, device.array(ROWS)):
        [response] = model.execute([received(input__0=rows)])
        np.testing.assert_allclose(response.arrays()["output__0"][:, 0], forest[0].predict(ROWS), rtol=1e-6)
