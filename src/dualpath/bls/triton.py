"""Triton's module for Python models, looked up when it is first used, so that `dualpath.bls` can be imported anywhere.

`triton_python_backend_utils` exists only inside Triton's Python backend, and its classes are still missing while a
model.py is being imported.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any


class _BackendUtils:
    """Stands for the module until it is there, and passes each name on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_module(), name)


@cache
def _module() -> ModuleType:
    try:
        return importlib.import_module("triton_python_backend_utils")
    except ModuleNotFoundError:
        raise RuntimeError(
            "triton_python_backend_utils: expected a process of Triton's Python backend, got another one. "
            "Serve the model with Triton, or test it with dualpath.bls.testing."
        ) from None


pb_utils: Any = _BackendUtils()
