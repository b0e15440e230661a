"""Load a TorchScript file into this process, by the engine that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualpath.inference.model import EngineError, Input, LoadedModel

if TYPE_CHECKING:  # the pipeline's other models, and Windows, do without it
    from dualpath.inference.conversion import Finding

ENGINES = ("auto", "openvino", "torch")
"""`auto` is the faster one of those that can run the model."""


def load(
    path: Path,
    inputs: Sequence[Input],
    engine: str = "auto",
    *,
    threads: int = 1,
    streams: int = 1,
    n_outputs: int = 1,
    cache: Path | None = None,
) -> LoadedModel:
    """Load a TorchScript file.

    Args:
        inputs: the model's, in their order.
        engine: one of ENGINES. `openvino` too gives way to torch if it cannot run the model: `LoadedModel.reason`.
        threads: that compute one call.
        streams: calls that run at a time.
        n_outputs: tensors that the model answers with.
        cache: folder of converted models; the user's if None.
    Raises:
        EngineError: no such engine, neither OpenVINO nor torch is installed, or the file cannot be loaded.
    """
    converted, reason = choose(path, inputs, engine, n_outputs, cache)
    if converted:
        from dualpath.inference.openvino_model import OpenVinoModel

        try:
            return OpenVinoModel(converted.model, converted.precision, threads, streams)
        except RuntimeError:  # another process may have tidied the cache meanwhile
            converted, reason = choose(path, inputs, engine, n_outputs, cache)
            if converted:
                return OpenVinoModel(converted.model, converted.precision, threads, streams)
    from dualpath.inference.torch_model import TorchModel

    return TorchModel(path, reason, threads, n_outputs)


def choose(
    path: Path, inputs: Sequence[Input], engine: str = "auto", n_outputs: int = 1, cache: Path | None = None
) -> tuple[Finding | None, str | None]:
    """Return the converted model, or None and why torch runs the model although OpenVINO was possible; see `load`.

    Loads neither engine into this process.
    """
    if engine not in ENGINES:
        raise EngineError(
            f"engine: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, got {engine!r}. Name one of them."
        )
    if engine == "torch":
        return None, None
    from dualpath.inference import conversion, openvino_model

    if missing := openvino_model.missing():
        return None, missing
    converted = conversion.convert(path, inputs, n_outputs, cache)
    reason = converted.reason or (converted.slower if engine == "auto" else None)
    return (None, reason) if reason else (converted, None)
