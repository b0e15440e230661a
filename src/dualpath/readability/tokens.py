"""Excerpts to padded token ids, by the tokenizer that BERT was trained with."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.extras import needs
from dualpath.readability.contract import MAX_TOKENS, bucket

with needs("readability"):
    from tokenizers import Encoding, Tokenizer

# A few excerpts take less time than waking the tokenizer's own threads, which would compete with the models for cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


PREFIX_BYTES = 8_192
"""Of a longer excerpt no more is tokenized than BERT reads: 512 tokens of English text are about 2,500 bytes."""


class TokenEncoder:
    """Encode excerpts with a Hugging Face `tokenizer.json`, cut at 512 tokens."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def encode(self, excerpts: Sequence[bytes]) -> list[npt.NDArray[np.int64]]:
        """Return each UTF-8 excerpt's token ids, int64 [tokens], [CLS] and [SEP] included."""
        if max(map(len, excerpts), default=0) > PREFIX_BYTES:
            excerpts = [self._as_far_as_it_is_read(excerpt) for excerpt in excerpts]
        return [_ids(encoding) for encoding in self._encode(excerpts)]

    def windows(self, excerpts: Sequence[bytes]) -> list[list[npt.NDArray[np.int64]]]:
        """Return all of each excerpt: one window after the other, each like a row of `encode`, which is the first."""
        return [[_ids(window) for window in (first, *first.overflowing)] for first in self._encode(excerpts)]

    def _as_far_as_it_is_read(self, excerpt: bytes) -> bytes:
        """Return as much of an excerpt as gives its first 512 tokens: what spaces part is tokenized apart."""
        n_bytes = PREFIX_BYTES
        while n_bytes < len(excerpt):
            end = max(excerpt.rfind(b" ", 0, n_bytes), excerpt.rfind(b"\n", 0, n_bytes))
            if end > 0 and self._encode([excerpt[:end]])[0].overflowing:
                return excerpt[:end]
            n_bytes *= 4
        return excerpt

    def _encode(self, excerpts: Sequence[bytes]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast([excerpt.decode() for excerpt in excerpts])


def pad(rows: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pad rows of token ids to the bucket of the longest.

    Args:
        rows: at least one row, int64 [tokens] each.
    Returns:
        input_ids: int64 [rows, bucket], padded with 0.
        attention_mask: int64 [rows, bucket], 1 at the tokens.
    """
    shape = len(rows), bucket(max(map(len, rows)))
    input_ids, attention_mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        input_ids[number, : len(row)] = row
        attention_mask[number, : len(row)] = 1
    return input_ids, attention_mask


def _ids(encoding: Encoding) -> npt.NDArray[np.int64]:
    return np.array(encoding.ids, np.int64)
