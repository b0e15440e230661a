"""Excerpts to padded token ids, by cuDF's normalizer and WordPiece on a whole batch.

cuDF splits words into pieces; what else BERT's tokenizer does is done here: long words are unknown, long excerpts are
cut, [CLS] and [SEP] frame each row. docs/gpu.md names the texts for which cuDF's pieces differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualpath.readability.contract import MAX_TOKENS, bucket
from dualpath.readability.device.rapids import Rapids

N_PIECES = MAX_TOKENS - 2
"""Tokens of an excerpt between [CLS] and [SEP], at most."""


class DeviceTokenEncoder:
    """Encode excerpts on a GPU by the WordPiece vocabulary of a Hugging Face `tokenizer.json`, cut at 512 tokens."""

    def __init__(self, tokenizer_json: Path, rapids: Rapids) -> None:
        tokenizer = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        kinds = [tokenizer[part]["type"] for part in ("normalizer", "pre_tokenizer", "model")]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            raise ValueError(f"{tokenizer_json}: expected BERT's WordPiece tokenizer, got {', '.join(kinds)}.")
        vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[word] for word in words] != list(range(len(words))):
            raise ValueError(f"{tokenizer_json}: expected ids from 0 without a gap, which cuDF takes for granted.")
        self._rapids = rapids
        self._cls, self._sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._unknown = tokenizer["model"]["unk_token"]
        self._max_word_length = tokenizer["model"]["max_input_chars_per_word"]
        special = rapids.xdf.Series([token["content"] for token in tokenizer["added_tokens"]])
        self._normalizer = rapids.CharacterNormalizer(tokenizer["normalizer"]["lowercase"], special_tokens=special)
        self._pieces = rapids.WordPieceVocabulary(rapids.xdf.Series(words))

    def encode(self, excerpts: Sequence[bytes]) -> list[Any]:
        """Return each UTF-8 excerpt's token ids, int64 [tokens] on the device, [CLS] and [SEP] included.

        The rows' lengths are the only thing that is copied to the host.
        """
        xp = self._rapids.xp
        words = self._rapids.words(self._normalizer.normalize(self._rapids.strings(excerpts)))
        short = words["word"].where(words["word"].str.len() <= self._max_word_length, self._unknown)
        # Word by word, not text by text: cuDF 26.10 loses words at its limit of words per row.
        pieces = self._pieces.tokenize(short).explode()
        row = words["row"].values[pieces.index.values]

        n_pieces = xp.bincount(row, minlength=len(excerpts))
        place = xp.arange(len(row)) - (xp.cumsum(n_pieces) - n_pieces)[row]
        kept = place < N_PIECES
        lengths = xp.minimum(n_pieces, N_PIECES) + 2
        ends = xp.cumsum(lengths)
        starts = ends - lengths
        host_ends = ends.tolist()
        ids = xp.full(host_ends[-1], self._sep, dtype="int64")
        ids[starts] = self._cls
        ids[(starts[row] + 1 + place)[kept]] = pieces.values.astype("int64")[kept]
        return [ids[start:end] for start, end in zip([0, *host_ends], host_ends, strict=False)]

    def pad(self, rows: Sequence[Any]) -> tuple[Any, Any]:
        """Pad rows of token ids to the bucket of the longest, as `dualpath.readability.tokens.pad` does."""
        xp = self._rapids.xp
        host_lengths = [len(row) for row in rows]
        lengths = xp.asarray(host_lengths)[:, None]
        column = xp.arange(bucket(max(host_lengths)))[None, :]
        mask = column < lengths
        ids = xp.concatenate(rows)
        index = xp.cumsum(lengths, axis=0) - lengths + column
        return xp.where(mask, ids[xp.minimum(index, len(ids) - 1)], 0), mask.astype("int64")
