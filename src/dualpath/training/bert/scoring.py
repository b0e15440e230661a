"""Apply a module that is not being fitted to many rows: on a CPU by the fastest engine, on a GPU by torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from dualpath import inference
from dualpath.extras import needs
from dualpath.readability.reference import BERT_INPUTS
from dualpath.training.bert import batches
from dualpath.training.bert.encoder import quiet

with needs("models"):
    import torch

WORTH_CONVERTING = 512
"""Rows. Converting a module takes as long as some dozens of them, and they need not be the shortest."""


def apply(
    module: torch.nn.Module,
    rows: Sequence[batches.Ids],
    device: torch.device | None = None,
    report: Callable[[int], object] = lambda n_rows: None,
) -> batches.Floats:
    """Apply a module of input_ids and attention_mask to all rows: float32 [rows, columns], in their order.

    Args:
        report: gets each batch's number of rows.
    """
    device = device or torch.device("cpu")
    if device.type != "cpu" or len(rows) < WORTH_CONVERTING:
        return batches.apply(module, rows, device, report)
    with tempfile.TemporaryDirectory(prefix="dualpath-") as name:
        path = Path(name) / "model.pt"
        with quiet(), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `export.trace`
            torch.jit.freeze(torch.jit.trace(module, batches.tensors(rows[:2], device), check_trace=False)).save(
                str(path)
            )
        model = inference.load(path, BERT_INPUTS, threads=torch.get_num_threads(), cache=Path(name))

        def run(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(model.run([input_ids.numpy(), attention_mask.numpy()])[0])

        return batches.apply(run, rows, device, report)
