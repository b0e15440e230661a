"""A TorchScript model by torch's own kernels, as Triton's C++ `pytorch` backend runs it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from dualpath.extras import needs
from dualpath.inference.model import Array, EngineError

with needs("models"):
    import torch


class TorchModel:
    """See `LoadedModel`. The number of threads holds for the whole process."""

    is_exact = False

    def __init__(self, path: Path, reason: str | None = None, threads: int = 1, n_outputs: int = 1) -> None:
        torch.set_num_threads(threads)
        self.engine = f"torch {torch.__version__.partition('+')[0]}"
        self.reason = reason
        self._model, self._n_outputs = load_script(path, "cpu"), n_outputs

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return [part.numpy() for part in answers(self._model, map(torch.from_numpy, inputs), self._n_outputs)]


def load_script(path: Path, device: str | torch.device) -> torch.nn.Module:
    """Load a TorchScript file onto a device.

    Raises:
        EngineError: it is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Triton's pytorch backend takes TorchScript
        try:
            model: torch.nn.Module = torch.jit.load(str(path), map_location=device).eval()
            return model
        except (RuntimeError, ValueError, OSError) as error:
            problem = str(error).strip().partition("\n")[0]
            raise EngineError(f"{path}: expected a TorchScript model, got: {problem} Build it again.") from None


def answers(model: torch.nn.Module, inputs: Iterable[torch.Tensor], n_outputs: int) -> tuple[torch.Tensor, ...]:
    """Run a model.

    Raises:
        EngineError: it does not answer with so many tensors.
    """
    with torch.inference_mode():
        answer = model(*inputs)
    found = answer if isinstance(answer, tuple) else (answer,)
    if len(found) != n_outputs or not all(isinstance(part, torch.Tensor) for part in found):
        raise EngineError(f"answer: expected {n_outputs} tensors from the model, got {answer!r:.80}. See its config.")
    return found
