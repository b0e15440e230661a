"""Tensors as Triton takes and gives them: made of values from a file, read from an answer."""

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from dualpath.readability.contract import Tensor

NUMPY_DTYPES = {
    **{
        f"{kind}{bits}": f"<{letter}{bits // 8}"
        for kind, letter in (("INT", "i"), ("UINT", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?", "BF16": "<u2"},
}


class BadValue(ValueError):
    """A value is none of the tensor's type or shape. The message has no full stop."""


def wire_dtype(tensor: Tensor) -> str:
    """Return the name that requests use: TYPE_STRING -> BYTES, TYPE_FP32 -> FP32."""
    return "BYTES" if tensor.dtype == "TYPE_STRING" else tensor.dtype.removeprefix("TYPE_")


def infer_input(tensor: Tensor, array: npt.NDArray[Any]) -> grpcclient.InferInput:
    """Make a request's input of an array as `from_values` gives it, with whatever dimensions it has."""
    made = grpcclient.InferInput(tensor.name, list(array.shape), wire_dtype(tensor))
    if tensor.dtype == "TYPE_BF16":  # of which tritonclient's versions want different arrays
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        made._raw_content = np.where(np.isnan(array), 0x7FC0, nearest).astype("<u2").tobytes()
        return made
    made.set_data_from_numpy(array)
    return made


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Return the type of a tensor's arrays: object of texts, float32 of BF16."""
    wire = wire_dtype(tensor)
    return np.dtype({"BYTES": "O", "BF16": "f4"}.get(wire) or NUMPY_DTYPES[wire])


def from_values(values: Any, tensor: Tensor, shape: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """Make an array of a list, flat in row-major order or nested.

    Args:
        values: texts, numbers, or texts of numbers.
        shape: without it, the tensor's; one variable dimension follows from the number of values.
    Raises:
        BadValue: a value or the shape does not fit.
    """
    nested = np.array(values, np.object_)
    if not isinstance(values, list) or any(isinstance(value, list) for value in nested.flat):  # ragged
        raise BadValue(f"expected a list of values, got {values!r:.40}")
    dtype = numpy_dtype(tensor)
    array = np.empty(nested.size, dtype)
    for index, value in enumerate(nested.flat):
        array[index] = _element(value, dtype)
    return _reshape(array, tensor, shape or (nested.shape if nested.ndim > 1 else None))


def from_base64(text: str, tensor: Tensor, shape: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """Make an array of Base64: little-endian values, or texts after their lengths as 4-byte integers; else BadValue."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadValue(f"expected Base64, got: {error}") from None
    try:
        wire = wire_dtype(tensor)
        array = deserialize_bytes_tensor(raw) if wire == "BYTES" else from_bytes(wire, raw)
    except (struct.error, ValueError):
        raise BadValue(f"expected Base64 of whole {wire_dtype(tensor)} elements, got {len(raw)} bytes") from None
    return _reshape(array, tensor, shape)


def _reshape(array: npt.NDArray[Any], tensor: Tensor, shape: Sequence[int] | None) -> npt.NDArray[Any]:
    expected = list(tensor.dims)
    if shape is None:
        if expected.count(-1) > 1:
            raise BadValue(f"expected a shape with the values, as {expected} leaves it open")
        fixed = math.prod(size for size in expected if size != -1)
        if (len(array) != fixed and -1 not in expected) or (fixed and len(array) % fixed):
            raise BadValue(f"expected shape {expected}, got {len(array)} values")
        return array.reshape(expected)
    fits = len(shape) == len(expected) and all(
        size >= 0 and want in (-1, size) for want, size in zip(expected, shape, strict=True)
    )
    if not fits:
        raise BadValue(f"expected shape {expected}, got {list(shape)}")
    if math.prod(shape) != len(array):
        raise BadValue(f"expected {math.prod(shape)} values for shape {list(shape)}, got {len(array)}")
    return array.reshape(shape)


def _element(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return one element as the array takes it, refusing what would silently become another."""
    if dtype.kind == "O":
        if not isinstance(value, str | bytes):
            raise BadValue(f"expected a text, got {value!r:.40}")
        try:
            return value.encode(errors="surrogateescape") if isinstance(value, str) else value
        except UnicodeEncodeError:  # JSON may hold half a character: "\ud800"
            raise BadValue(f"expected a text of whole characters, got {value!r:.40}") from None
    try:
        if dtype.kind == "b":
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if isinstance(value, bool):
            raise ValueError
        if dtype.kind in "iu":
            return _integer(value, np.iinfo(dtype))
        number = float(value)
        with np.errstate(over="ignore"):
            fits = math.isinf(number) or not np.isinf(dtype.type(number))
    except (KeyError, ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise BadValue(
            f"expected {'true or false' if dtype.kind == 'b' else f'a number of type {dtype}'}, got {value!r:.40}"
        )
    return number


def _integer(value: Any, limits: Any) -> int:
    number = int(value)
    if not limits.min <= number <= limits.max or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def decode_all(responses: Sequence[bytes], axis: int) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of a request's responses, in their order along a new axis.

    If shapes differ, each array is filled up to the largest, and beside it stands a 1 for each value and 0 for filler.

    Raises:
        ValueError: as `decode`, or responses have an output of different numbers of dimensions.
    """
    answers = [decode(response) for response in responses]
    found = {}
    for name in dict.fromkeys(name for answer in answers for name in answer):
        arrays = [answer[name] for answer in answers if name in answer]
        if len({array.shape for array in arrays}) > 1:
            largest = np.max([array.shape for array in arrays], axis=0)
            fill = [[(0, size) for size in largest - array.shape] for array in arrays]
            both = [
                (np.pad(it, width), np.pad(np.ones_like(it), width)) for it, width in zip(arrays, fill, strict=True)
            ]
            arrays = [np.stack(it, axis) for it in both]
        found[name] = np.stack(arrays, axis)
    return found


def decode(response: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of a serialised ModelInferResponse by name; raises as `array_of` does."""
    answer = service_pb2.ModelInferResponse.FromString(response)
    described = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: array_of(output.name, output.datatype, output.shape, raw) for output, raw in described}


def array_of(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> npt.NDArray[Any]:
    """Return an output as an array, of BF16 float32; ValueError if it is not what its shape and type say."""
    # Not by tritonclient: what its versions make of BF16 and of empty tensors differs.
    if datatype == "BYTES":
        array: npt.NDArray[Any] = np.array([*_texts(raw), None], np.object_)[:-1]
    else:
        array = from_bytes(datatype, raw)
    if len(array) != math.prod(shape):
        raise ValueError(f"output {name}: expected the values of shape {list(shape)}, got {len(array)}. See its model.")
    return array.reshape(tuple(shape))


def from_bytes(datatype: str, raw: bytes) -> npt.NDArray[Any]:
    """Return little-endian numbers as an array; BF16 becomes float32."""
    array = np.frombuffer(raw, NUMPY_DTYPES[datatype])
    return (array.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else array


def _texts(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        yield raw[at + 4 : end]
        at = end
