"""Test a model.py in pytest, without a server.

def test_a_bright_image_is_day():
    children = {"encoder": lambda inputs: {"embedding": inputs["image"].mean((2, 3))}}
    with testing.serve("model_repository/scene", children=children) as model:
        answer = model.infer({"image": np.ones((1, 3, 8, 8), np.float32)})
    assert answer["label"].tolist() == [[b"day"]]

The model runs with its own config.pbtxt and against a fake of Triton. What the fake does, the real server does too:
each behaviour is a test of this project that runs on both.
"""

from dualpath.bls.testing.backend import InferenceRequest, TritonError
from dualpath.bls.testing.model import Model, serve
from dualpath.bls.testing.received import Pending, RequestFailed

__all__ = ["InferenceRequest", "Model", "Pending", "RequestFailed", "TritonError", "serve"]
