"""The stand-in backends, as Triton loads them but without Triton: what they honour and what they refuse."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from fake_triton import received

from dualpath.bls import ConfigError
from dualpath.serving.installation import STAND_INS


def load(backend):
    spec = importlib.util.spec_from_file_location(f"backend_{backend}", STAND_INS / backend / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def tensor(name, dims, dtype="TYPE_FP32"):
    return {"name": name, "data_type": dtype, "dims": dims}


def args(folder, inputs, outputs, parameters, kind="CPU", **config):
    raw = {
        "max_batch_size": 512,
        "input": inputs,
        "output": outputs,
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        **config,
    }
    return {
        "model_config": json.dumps(raw),
        "model_name": "m",
        "model_version": "1",
        "model_repository": str(folder),
        "model_instance_kind": kind,
    }


class TwoOut(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor):
        return a - b, (a * b).sum(1, keepdim=True)


class NoTensor(torch.nn.Module):
    def forward(self, a: torch.Tensor):
        return [a]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "1").mkdir()
    return tmp_path


@pytest.fixture
def torch_args(folder):
    def make(module=None, **changes):
        with torch.no_grad():
            torch.jit.save(torch.jit.script(module or TwoOut()), folder / "1" / "model.pt")
        settings = {
            "inputs": [tensor("IN__1", [-1]), tensor("IN__0", [-1])],
            "outputs": [tensor("OUT__0", [-1]), tensor("OUT__1", [1])],
            "parameters": {"INTRA_OP_THREAD_COUNT": "1", "INFERENCE_MODE": "true"},
        }
        return args(folder, **{**settings, **changes})

    return make


@pytest.mark.parametrize("chunk_rows", ["1", "2", "512"])
def test_pytorch_merges_requests_maps_names_by_index_and_splits_the_answers(torch_args, chunk_rows):
    model = load("pytorch")
    model.initialize(torch_args(parameters={"STAND_IN_CHUNK_ROWS": chunk_rows}))
    first = np.arange(6, dtype=np.float32).reshape(3, 2)
    second = np.array([[7, 9]], np.float32)
    requests = [received(IN__1=first, IN__0=first * 3), received(IN__1=second, IN__0=second * 3)]
    for response, rows in zip(model.execute(requests), (first, second), strict=True):
        assert not response.has_error()
        assert response.arrays()["OUT__0"].tolist() == (rows * 2).tolist()
        assert response.arrays()["OUT__1"].tolist() == (rows * rows * 3).sum(1, keepdims=True).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "MODEL"}, "m: expected an instance group of KIND_CPU or KIND_GPU, got KIND_MODEL"),
        ({"parameters": {"ENABLE_WEIGHT_SHARING": "true"}}, "got 'ENABLE_WEIGHT_SHARING'. Remove it"),
        ({"parameters": {"INTRA_OP_THREAD_COUNT": "0"}}, "'INTRA_OP_THREAD_COUNT': expected a positive whole number"),
        ({"parameters": {"INFERENCE_MODE": "yes"}}, "'INFERENCE_MODE': expected \"true\" or \"false\", got 'yes'"),
        ({"inputs": [tensor("ids", [-1])]}, "m: expected a tensor's name of the form NAME__0, got ids"),
        ({"inputs": [tensor("IN__1", [-1])]}, "m: expected indices from __0 without a gap, got [1]"),
        ({"outputs": [tensor("OUT__0", [1], "TYPE_BF16")]}, "which TorchScript takes, got TYPE_BF16"),
        ({"default_model_filename": "other.pt"}, "other.pt, got none"),
    ],
)
def test_pytorch_refuses_by_name_what_it_cannot_honour(torch_args, changes, message):
    with pytest.raises(ConfigError) as caught:
        load("pytorch").initialize(torch_args(**changes))
    assert message in str(caught.value)


def test_pytorch_answers_with_an_error_when_the_model_gives_no_tensor(torch_args):
    model = load("pytorch")
    model.initialize(
        torch_args(NoTensor(), inputs=[tensor("IN__0", [1])], outputs=[tensor("OUT__0", [1])], parameters={})
    )
    [response] = model.execute([received(IN__0=np.ones((1, 1), np.float32))])
    assert "m: answer: expected 1 tensors from the model" in response.error().message()


@pytest.fixture(scope="module")
def forest():
    """A small forest on 3 features, as scikit-learn and as the bytes of a Treelite checkpoint."""
    import treelite
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    features = rng.random((200, 3)).astype(np.float32)
    fitted = RandomForestRegressor(5, max_depth=4, random_state=0).fit(features, features.sum(1))
    return fitted, treelite.sklearn.import_model(fitted).serialize_bytes()


@pytest.fixture
def fil_args(folder, forest):
    def make(**changes):
        (folder / "1" / "checkpoint.tl").write_bytes(forest[1])
        settings = {
            "inputs": [tensor("input__0", [3])],
            "outputs": [tensor("output__0", [1])],
            "parameters": {"model_type": "treelite_checkpoint", "output_class": "false"},
        }
        return args(folder, **{**settings, **changes})

    return make


def test_fil_predicts_what_the_fitted_forest_predicts(fil_args, forest):
    model = load("fil")
    model.initialize(fil_args())
    rows = np.random.default_rng(1).random((7, 3)).astype(np.float32)
    responses = model.execute([received(input__0=rows[:2]), received(input__0=rows[2:])])
    got = np.concatenate([response.arrays()["output__0"] for response in responses])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, 0], forest[0].predict(rows), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "MODEL"}, "m: expected an instance group of KIND_CPU or KIND_GPU, got KIND_MODEL"),
        ({"parameters": {"output_class": "false"}}, "expected \"treelite_checkpoint\", got 'xgboost'"),
        (
            {"parameters": {"model_type": "treelite_checkpoint", "output_class": "true"}},
            '"output_class": expected "false", got "true"',
        ),
        ({"parameters": {"model_type": "treelite_checkpoint", "threshold": "0.5"}}, "got 'threshold'. Remove it"),
        ({"inputs": [tensor("features", [3])]}, "m: expected one tensor, input__0 TYPE_FP32, got features TYPE_FP32."),
        ({"outputs": [tensor("output__0", [1], "TYPE_FP64")]}, "m: expected one tensor, output__0 TYPE_FP32, got"),
        ({"inputs": [tensor("input__0", [4])]}, "m.input__0: expected dims [ 3 ], the checkpoint's features, got [4]"),
    ],
)
def test_fil_refuses_by_name_what_it_cannot_honour(fil_args, changes, message):
    with pytest.raises(ConfigError) as caught:
        load("fil").initialize(fil_args(**changes))
    assert message in str(caught.value)
