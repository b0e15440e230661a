"""Answers as they come over the wire: every type, and what is not what it says."""

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from dualpath.compare.tensors import decode, decode_all


def response(*outputs):
    made = service_pb2.ModelInferResponse(model_name="any")
    for name, datatype, shape, raw in outputs:
        made.outputs.add(name=name, datatype=datatype, shape=shape)
        made.raw_output_contents.append(raw)
    return made.SerializeToString()


@pytest.mark.parametrize(
    "array",
    [
        np.array([[-128, 127]], np.int8),
        np.array([2**63], np.uint64),
        np.array([0.5, -np.inf], np.float16),
        np.array([[1e300]], np.float64),
        np.array([True, False]),
        np.empty((0, 3), np.float32),
    ],
)
def test_numbers_come_as_they_were_sent(array):
    names = {"i": "INT", "u": "UINT", "f": "FP", "b": "BOOL"}
    datatype = names[array.dtype.kind] + ("" if array.dtype.kind == "b" else str(array.dtype.itemsize * 8))
    got = decode(response(("X", datatype, array.shape, array.tobytes())))["X"]
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("texts", [[b"a", b"", "höher".encode(), b"\0"], []])
def test_texts_come_as_they_were_sent(texts):
    raw = serialize_byte_tensor(np.array(texts, np.object_)).item() if texts else b""
    assert decode(response(("X", "BYTES", [len(texts)], raw)))["X"].tolist() == texts


def test_brain_floats_become_floats():
    got = decode(response(("X", "BF16", [2], b"\xc0\x3f\x00\x40")))["X"]
    assert (got.dtype, got.tolist()) == (np.float32, [1.5, 2.0])


def test_fewer_values_than_the_shape_says_are_named():
    with pytest.raises(ValueError, match=r"output X: expected the values of shape \[4, 1\], got 1"):
        decode(response(("X", "FP32", [4, 1], b"\0\0\0\0")))


def streamed(*responses, dtype=np.float32):
    """The output X of a request's responses, a row with these values in each."""
    arrays = [np.array([values], dtype) for values in responses]
    raws = [serialize_byte_tensor(it).item() if dtype is np.object_ else it.tobytes() for it in arrays]
    datatype = {np.object_: "BYTES", np.float32: "FP32", np.int64: "INT64"}[dtype]
    made = [response(("X", datatype, it.shape, raw)) for it, raw in zip(arrays, raws, strict=True)]
    return decode_all(made, 1)["X"]


@pytest.mark.parametrize(
    ("dtype", "one", "other"), [(np.float32, 1.5, 2.5), (np.int64, 0, 7), (np.object_, b"", b"ab")]
)
def test_responses_of_different_shapes_are_told_by_their_values_and_where_each_ends(dtype, one, other):
    found = streamed([one, other], [one], dtype=dtype)
    assert (found.dtype, found.shape) == (dtype, (1, 2, 2, 2))
    assert found[0, 0].tolist() == [[one, other], [1, 1]]
    assert found[0, 1].tolist() == [[one, 0], [1, 0]]
    assert found.tolist() == streamed([one, other], [one], dtype=dtype).tolist()
    for unlike in ([[one, other], [other]], [[one], [other, one]], [[one, other], [one, type(one)()]]):
        assert found.tolist() != streamed(*unlike, dtype=dtype).tolist()


def test_responses_of_one_shape_are_stacked_as_they_are():
    assert streamed([1.0, 2.0], [3.0, 4.0]).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
