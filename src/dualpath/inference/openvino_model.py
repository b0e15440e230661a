"""A converted model by OpenVINO; the one place that imports it."""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np

from dualpath.inference.model import Array

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Precisions that OpenVINO computes in on a CPU, by their names there; int8 concerns matrix products alone."""
INT8_COLUMNS = 128
"""Columns of a layer's inputs that share a scale if its weights are int8. 128 was the fastest of 32 to 1536."""


def openvino() -> ModuleType:
    """Import OpenVINO, without its usage statistics.

    Its converter sends them to a server of Google's if the package `openvino-telemetry` can be imported, and does
    without if not.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # `import` raises ImportError for it
    ov = importlib.import_module("openvino")
    # Its binding (2026.4) looks NumPy up at the first array. Two threads that do so together block each other for ever.
    _ = ov.Tensor(np.zeros(1, np.float32)).data
    return ov


def missing() -> str | None:
    """Say that OpenVINO is not installed; None if it is."""
    try:
        version()
    except importlib.metadata.PackageNotFoundError:
        return "OpenVINO is not installed"
    return None


def version() -> str:
    """Return OpenVINO's version, without importing it."""
    return importlib.metadata.version("openvino")


@functools.lru_cache(maxsize=1)
def _read(path: Path) -> tuple[Any, Any]:
    """Read a converted model, once for all the ways in which it is compiled: they share its weights' pages."""
    core = openvino().Core()
    return core, core.read_model(str(path))


class OpenVinoModel:
    """See `LoadedModel`."""

    reason: str | None = None
    is_exact = True

    def __init__(self, path: Path, precision: str, threads: int = 1, streams: int = 1) -> None:
        self.engine = f"OpenVINO {version()} in {precision}"
        core, model = _read(path)
        compiled = core.compile_model(
            model,
            "CPU",
            {
                # By default a processor that has bfloat16 computes float32 models in it.
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": INT8_COLUMNS if precision == "int8" else 0,
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads * streams,
                # Other processes want the cores too: a thread that may not leave its core waits for them.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._n_outputs = len(compiled.outputs)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        if any(array.dtype.hasobject for array in inputs):  # OpenVINO takes them now and then
            dtypes = ", ".join(str(array.dtype) for array in inputs)
            raise TypeError(f"inputs: expected numbers, got {dtypes}. Convert them first.")
        request = self._idle.get()
        try:
            answers = request.infer(list(inputs))
            return [answers[index].copy() for index in range(self._n_outputs)]
        finally:
            self._idle.put(request)
