"""What turns excerpts into the two models' inputs, on the device that an instance runs on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.readability.contract import MAX_BATCH_SIZE
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad

HOST_SLICE_ROWS = 8


@dataclass(frozen=True)
class TextEngine:
    """Text to tensors: NumPy arrays on the CPU, CuPy arrays on a GPU.

    Attributes:
        tokens: UTF-8 excerpts to rows of token ids, int64 [tokens] each.
        windows: the same for all of each excerpt, in windows of 512 tokens.
        pad: rows of token ids to BERT's inputs, ids and attention mask, int64 [rows, bucket] both.
        features: UTF-8 excerpts with a word each to the forest's input, float32 [rows, 207].
        slice_rows: how many excerpts to give it at a time if other requests wait: a few ms of work on the CPU, a
            whole batch on a GPU.
    """

    tokens: Callable[[Sequence[bytes]], Sequence[Any]]
    windows: Callable[[Sequence[bytes]], Sequence[Sequence[Any]]]
    pad: Callable[[Sequence[Any]], tuple[Any, Any]]
    features: Callable[[Sequence[bytes]], Any]
    slice_rows: int


def text_engine(gpu: int | None, tokenizer: Path, word_lists: Path) -> TextEngine:
    """Load BERT's tokenizer.json and the forest's word_lists.json, for the CPU (None) or a GPU, which needs RAPIDS."""
    lists = WordLists.load(word_lists)
    if gpu is None:
        encoder = TokenEncoder(tokenizer)
        return TextEngine(encoder.encode, encoder.windows, pad, FeatureCounter(lists).features, HOST_SLICE_ROWS)
    from dualpath.readability.device import DeviceFeatureCounter, DeviceTokenEncoder, load_rapids

    rapids = load_rapids()
    if gpu:  # the first one is current anyway
        rapids.xp.cuda.Device(gpu).use()
    on_gpu = DeviceTokenEncoder(tokenizer, rapids)
    counter = DeviceFeatureCounter(lists, rapids)
    return TextEngine(on_gpu.encode, on_gpu.windows, on_gpu.pad, counter.features, MAX_BATCH_SIZE)
