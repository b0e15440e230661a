"""Read DLPack capsules, BF16 too, which NumPy does not know."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

CPU = 1
"""DLPack's number of the CPU."""
UINT, BFLOAT = 1, 4
"""DLPack's codes of types."""
_CODE_OFFSET = 20  # of a DLManagedTensor: after the data's address, the device and the number of dimensions

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def read(capsule: Any) -> tuple[npt.NDArray[Any], bool]:
    """Return what a capsule on the CPU holds, and whether it is BF16: then the array has its bits, as uint16."""
    is_bf16 = _code(capsule).value == BFLOAT
    return np.from_dlpack(_Once(retype(capsule, UINT) if is_bf16 else capsule)), is_bf16


def retype(capsule: Any, code: int) -> Any:
    """Change the type of what a capsule holds; its width stays."""
    _code(capsule).value = code
    return capsule


def _code(capsule: Any) -> ctypes.c_uint8:
    return ctypes.c_uint8.from_address(_pointer(capsule, b"dltensor") + _CODE_OFFSET)


class _Once:
    """Gives a capsule to NumPy."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0
