"""A TorchScript model by torch's own kernels, as Triton's C++ `pytorch` backend runs it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
        self._n_outputs = n_outputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Triton's pytorch backend takes TorchScript
            try:
                self._model = torch.jit.load(str(path), map_location="cpu").eval()
            except (RuntimeError, ValueError, OSError) as error:
                problem = str(error).strip().partition("\n")[0]
                raise EngineError(f"{path}: expected a TorchScript model, got: {problem} Build it again.") from None

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            answer = self._model(*map(torch.from_numpy, inputs))
        answers = answer if isinstance(answer, tuple) else (answer,)
        if len(answers) != self._n_outputs or not all(isinstance(part, torch.Tensor) for part in answers):
            raise EngineError(f"expected {self._n_outputs} tensors from the model, got {answer!r:.80}.")
        return [part.numpy() for part in answers]
