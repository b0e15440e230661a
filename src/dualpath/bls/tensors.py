"""Triton's tensors to arrays and back, without a copy: NumPy's on the CPU, CuPy's on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.triton import pb_utils

Array = npt.NDArray[Any]
"""A NumPy array, or a CuPy array, which NumPy's functions hand to CuPy's."""


def to_array(tensor: Any) -> Array:
    """Return the array of a request's tensor, on the device where it lies."""
    if tensor.is_cpu():
        array: Array = tensor.as_numpy()
        return array
    import cupy

    on_gpu: Array = cupy.from_dlpack(tensor)
    return on_gpu


def to_tensor(name: str, array: Any) -> Any:
    """Make a Triton tensor of an array on any device.

    NumPy arrays are shared by reference: release 24.10 would copy the memory that a CPU capsule points to, and Python
    would log an error for every capsule, since Triton gives them a name that NumPy does not know.
    """
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, array)


def keep(array: Array) -> Array:
    """Return an array that outlives `execute`, on the same device."""
    if array.dtype == np.object_:
        return array  # strings are already Python objects; numbers may still lie in the request's shared memory
    kept = array.copy()
    if not isinstance(array, np.ndarray):
        kept.device.synchronize()  # type: ignore[attr-defined, unused-ignore]  # until then it is only a queued copy
    return kept
