"""Triton's tensors to arrays and back: NumPy's on the CPU, CuPy's on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.triton import pb_utils

Array = npt.NDArray[Any]
"""A NumPy array, or a CuPy array, which NumPy's functions hand to CuPy's."""

Arrays = Mapping[str, Array]
"""Arrays by the names of inputs or outputs."""


def to_array(tensor: Any) -> Array:
    """Return what a tensor holds, on the device on which it lies.

    BYTES are an object array of `bytes`; BF16 is its bits, as uint16. On the CPU the array is the caller's own: Triton
    copies the tensor for it.
    """
    if not tensor.is_cpu():
        import cupy

        on_gpu: Array = cupy.from_dlpack(tensor)
        return on_gpu
    try:
        array: Array | None = tensor.as_numpy()
    except pb_utils.TritonModelException:
        array = None  # of BF16 there is none, which releases say in different ways
    if array is None:
        array = np.from_dlpack(_AsUint16(tensor)).copy()
    return array


def to_tensor(name: str, array: Any, bf16: bool = False) -> Any:
    """Make a Triton tensor of an array on any device.

    NumPy arrays are passed as such: release 24.10 would copy the memory that a CPU capsule points to, and Python
    would log an error for every capsule, since Triton gives them a name that NumPy does not know.

    Args:
        bf16: whether `array` is uint16 and holds the bits of BF16.
    """
    if bf16:
        return pb_utils.Tensor.from_dlpack(name, _AsBf16(array))
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, array)


def to_tensors(arrays: Mapping[str, Any], bf16: Sequence[str] = ()) -> list[Any]:
    """Make a Triton tensor of each array but None; those named by `bf16` hold the bits of BF16."""
    return [to_tensor(name, array, name in bf16) for name, array in arrays.items() if array is not None]


def use_gpu(gpu: int | None) -> None:
    """Make a GPU the calling thread's current one, as CUDA keeps it by thread; None or 0 for its default."""
    if gpu:
        import cupy

        cupy.cuda.Device(gpu).use()


def own(array: Array, outlives_execute: bool) -> Array:
    """Return a copy that may be written to, on the same device."""
    copy = array.copy()
    if outlives_execute and not isinstance(array, np.ndarray):
        copy.device.synchronize()  # type: ignore[attr-defined, unused-ignore]  # until then it is only a queued copy
    return copy


def concatenate(arrays: Sequence[Array]) -> Array:
    """Return all rows in one array, which is a new one if there are several."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def split(rows: Array, n_rows: Sequence[int]) -> Sequence[Array]:
    """Cut rows into parts of so many rows each."""
    return np.split(rows, np.cumsum(n_rows)[:-1].tolist())  # CuPy takes no NumPy array here


@dataclass(frozen=True)
class Library:
    """What makes arrays of Triton's tensors, puts rows together and takes them apart, such as torch.

    Attributes:
        to_array: makes an array of a tensor.
        concatenate: puts the rows of several arrays into one.
        split: cuts an array into parts of so many rows each. Triton takes each part by DLPack.
    """

    to_array: Callable[[Any], Any]
    concatenate: Callable[[Sequence[Any]], Any]
    split: Callable[[Any, Sequence[int]], Sequence[Any]]


NUMPY = Library(to_array, concatenate, split)
"""NumPy on the CPU, CuPy on a GPU."""


class _ManagedTensor(ctypes.Structure):
    """DLPack's DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


CPU, UINT, BFLOAT = 1, 1, 4
"""DLPack's codes of the device and of types."""

_lent: dict[int, tuple[Any, ...]] = {}
"""What Triton's tensors of BF16 refer to, by address, until Triton lets go of it."""

_let_go = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda address: _lent.pop(address, None))
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def managed(capsule: Any) -> _ManagedTensor:
    """Return what a capsule of DLPack holds: change its `code`, and it passes for another type of the same width."""
    return _ManagedTensor.from_address(_pointer(capsule, b"dltensor"))


class _AsBf16:
    """Lets uint16 pass for BF16, which NumPy does not know, by DLPack, which does.

    NumPy's own capsules would not do: Triton 24.10 gives a capsule that it has taken a name of its own, at which
    NumPy's destructor stumbles.
    """

    def __init__(self, bits: Any) -> None:
        if bits.dtype != np.uint16:
            raise TypeError(f"BF16: expected its bits as uint16, got {bits.dtype}. Convert them.")
        self._bits = np.ascontiguousarray(bits).reshape(bits.shape)

    def __dlpack__(self, **options: Any) -> Any:
        shape = (ctypes.c_int64 * max(1, self._bits.ndim))(*self._bits.shape)
        managed = _ManagedTensor(
            data=self._bits.ctypes.data,
            device_type=CPU,
            ndim=self._bits.ndim,
            code=BFLOAT,
            bits=16,
            lanes=1,
            shape=ctypes.addressof(shape),
            deleter=ctypes.cast(_let_go, ctypes.c_void_p),
        )
        address = ctypes.addressof(managed)
        _lent[address] = managed, shape, self._bits
        return _new_capsule(address, b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0


class _AsUint16:
    """Lets a tensor of BF16 pass for uint16."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._tensor.to_dlpack()
        managed(capsule).code = UINT
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()
