"""A TorchScript model by torch's own kernels, as Triton's C++ `pytorch` backend runs it: on the CPU, or on a GPU by
Triton's tensors in and out by DLPack, without the host.

How streams are kept in order, by the sources of Triton's Python backend (branch r24.10):

- Nothing is pending on a tensor that Triton hands over. `PbTensor::DLPack` (pb_tensor.cc) therefore ignores the stream
  that it is given.
- A tensor that is handed back is waited for. `PbTensor::FromDLPack` (pb_tensor.cc) passes a stream of its own to
  `__dlpack__` and waits for that one. torch makes it wait for the stream that is current. So the tensor is handed over,
  not a capsule, by the thread that computed it. That stream belongs to the current device, so this is the instance's.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dualpath.extras import needs
from dualpath.inference.model import Array, EngineError

with needs("models"):
    import torch

TYPE = "cuda"
"""torch's name of the kind of device. Tests put "cpu" here."""


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


class DeviceModel:
    """A TorchScript model that computes on one GPU, for the thread that makes it.

    Args:
        gpu: its number, as Triton counts.
        n_outputs: tensors that the model answers with.

    Attributes:
        engine: what runs it, for people: "torch 2.13.0 on NVIDIA A100-SXM4-80GB".
        reason: None; see `LoadedModel`.
    Raises:
        EngineError: torch cannot use this GPU, or the file cannot be loaded.
    """

    reason: str | None = None

    def __init__(self, path: Path, gpu: int, n_outputs: int = 1) -> None:
        self.device = torch.device(TYPE, gpu)
        version, where = torch.__version__.partition("+")[0], "the CPU"
        if TYPE == "cuda":
            if problem := _unusable(gpu):
                raise EngineError(problem)
            torch.cuda.set_device(self.device)
            where = torch.cuda.get_device_name(self.device)
        self.engine = f"torch {version} on {where}"
        self._model, self._n_outputs = load_script(path, self.device), n_outputs

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the model's outputs, on the GPU. They may still be computed when this returns."""
        return [part.contiguous() for part in answers(self._model, inputs, self._n_outputs)]

    def read(self, tensor: Any) -> torch.Tensor:
        """Return what a tensor of Triton's holds, on the GPU, wherever it lies."""
        if tensor.is_cpu():
            return torch.from_numpy(tensor.as_numpy()).to(self.device)
        on_gpu: torch.Tensor = torch.utils.dlpack.from_dlpack(tensor)
        return on_gpu

    def close(self) -> None:
        """Let go of the model."""
        del self._model


def concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return all rows in one tensor, which is a new one if there are several."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def split(rows: torch.Tensor, n_rows: Sequence[int]) -> Sequence[torch.Tensor]:
    """Cut rows into parts of so many rows each, without a copy."""
    return torch.split(rows, list(n_rows))


def _unusable(gpu: int) -> str | None:
    """Say why torch cannot use a GPU; None if it can. Starts CUDA."""
    if torch.version.cuda is None:
        return (
            f"torch: expected a build with CUDA for KIND_GPU, got {torch.__version__}. "
            "Run `pip install --force-reinstall torch`."
        )
    if (n_gpus := torch.cuda.device_count()) <= gpu:
        return (
            f"torch: expected GPU {gpu} and a driver for CUDA {torch.version.cuda}, got {n_gpus} usable GPUs. "
            "Run `dualpath doctor`."
        )
    return None
