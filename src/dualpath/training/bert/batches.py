"""Rows of token ids as padded batches: in random order for fitting, sorted by length for everything else."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dualpath import inference
from dualpath.readability.reference import BERT_INPUTS
from dualpath.readability.tokens import pad
from dualpath.training.bert.export import frozen

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SCORED_ROWS = 16
"""Rows of a batch outside fitting."""
WORTH_CONVERTING = 512
"""Rows. Converting a module takes as long as some dozens of them, and they need not be the shortest."""
SORTED_BATCHES = 16
"""Batches of an epoch within which rows are sorted by length: little padding, and the order stays random enough."""


def shuffled(rows: Sequence[Ids], batch_rows: int, seed: Sequence[int]) -> list[Ids]:
    """Return every row's index once, in batches of rows of like length, in random order; equal seeds, equal batches."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    batches: list[Ids] = []
    for start in range(0, len(order), batch_rows * SORTED_BATCHES):
        stretch = sorted(order[start : start + batch_rows * SORTED_BATCHES], key=lambda row: len(rows[row]))
        batches += [np.array(stretch[at : at + batch_rows], np.int64) for at in range(0, len(stretch), batch_rows)]
    return [batches[index] for index in rng.permutation(len(batches))]


def tensors(rows: Sequence[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of token ids: input_ids and attention_mask, int64 [rows, tokens] each."""
    input_ids, attention_mask = (torch.from_numpy(array).to(device) for array in pad(rows))
    return input_ids, attention_mask


def apply(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rows: Sequence[Ids],
    device: torch.device | None = None,
    report: Callable[[int], object] = lambda n_rows: None,
) -> Floats:
    """Apply a function of input_ids and attention_mask to all rows: float32 [rows, columns], in their order.

    Args:
        function: if it is a module, many rows on a CPU are given to the fastest engine in its place.
        report: gets each batch's number of rows.
    """
    device = device or torch.device("cpu")
    if isinstance(function, torch.nn.Module) and device.type == "cpu" and len(rows) >= WORTH_CONVERTING:
        with tempfile.TemporaryDirectory(prefix="dualpath-") as folder:
            return apply(_converted(function, rows[:2], Path(folder)), rows, device, report)
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts: list[Floats] = []
    with torch.inference_mode():
        for batch in np.split(order, range(SCORED_ROWS, len(order), SCORED_ROWS)):
            parts.append(function(*tensors([rows[row] for row in batch], device)).float().cpu().numpy())
            report(len(batch))
    return np.concatenate(parts)[np.argsort(order)]


def _converted(
    module: torch.nn.Module, rows: Sequence[Ids], folder: Path
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    path = folder / "model.pt"
    frozen(module, tensors(rows, torch.device("cpu"))).save(str(path))
    model = inference.load(path, BERT_INPUTS, threads=torch.get_num_threads(), cache=folder)
    return lambda *inputs: torch.from_numpy(model.run([tensor.numpy() for tensor in inputs])[0])
