"""Tensors as a Python model holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualpath.bls.tensors import BFLOAT, CPU, UINT, Array, managed

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_BOOL": bool,
    **{f"TYPE_{each.upper()}": np.dtype(each).type for each in ("uint8", "uint16", "uint32", "uint64")},
    **{f"TYPE_{each.upper()}": np.dtype(each).type for each in ("int8", "int16", "int32", "int64")},
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}


class TritonModelException(Exception):
    """What Triton raises in a model."""


class Tensor:
    """A named array. BF16 is kept as its 16 bits, which only DLPack shows as such."""

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor {name}: expected a numpy.ndarray, got {type(array).__name__}. Convert it.")
        if array.dtype.kind not in "biufOS" or not array.dtype.isnative or array.dtype == np.longdouble:
            raise TritonModelException("NumPy dtype is not supported.")
        self._name = name
        self._array: Any = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        self._is_bf16 = False

    @classmethod
    def of(cls, name: str, array: Any, is_bf16: bool = False) -> Tensor:
        """Make a tensor of an array on any device, or of the bits of BF16."""
        tensor = cls.__new__(cls)
        tensor._name, tensor._array, tensor._is_bf16 = name, array, is_bf16
        return tensor

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> Tensor:
        assert not isinstance(array, np.ndarray), (
            f"Tensor.from_dlpack({name!r}, a NumPy array) ends the model's process"
        )
        if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        capsule = array.__dlpack__()
        if array.__dlpack_device__()[0] != CPU:
            return cls.of(name, capsule)
        is_bf16 = managed(capsule).code == BFLOAT
        if is_bf16:
            managed(capsule).code = UINT
        return cls.of(name, np.from_dlpack(_OnCpu(capsule)), is_bf16)

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return isinstance(self._array, np.ndarray)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def as_numpy(self) -> Array:
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        if self._is_bf16:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        array: Array = self._array
        return array

    def array(self) -> Any:
        """Return what the tensor holds, for a test: BF16 as uint16."""
        return self._array

    def is_bf16(self) -> bool:
        """Tell, for a test, whether it holds BF16."""
        return self._is_bf16

    def to_dlpack(self) -> Any:
        return self.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        if self.is_cpu() and self._array.dtype.kind in "OS":
            raise TritonModelException("DLPack does not have support for string tensors.")
        capsule = self._array.__dlpack__(**options)
        if self._is_bf16:
            managed(capsule).code = BFLOAT
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class _OnCpu:
    """Gives a capsule to NumPy."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0
