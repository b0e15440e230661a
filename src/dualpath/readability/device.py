"""Excerpts to padded tokens and features on a GPU, a whole batch at a time.

The code keeps to calls that cuDF shares with pandas and CuPy with NumPy, so that tests run it with these and hold it to
the CPU's code value by value. Nothing here is imported if an instance runs on the CPU.

What the features are is said in `dualpath.readability.features`; the counts are those of its `FeatureCounter`, exactly.
cuDF splits words into pieces; what else BERT's tokenizer does is done here: long words are unknown, long excerpts are
cut, [CLS] and [SEP] frame each row. docs/gpu.md says what of this was never run.
"""

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from dualpath.extras import needs
from dualpath.readability.contract import MAX_TOKENS, bucket
from dualpath.readability.features import CLOSING_MARKS, LOOK_ALIKES, STOP_WORDS, WordLists, features

N_PIECES = MAX_TOKENS - 2
"""Tokens of an excerpt between [CLS] and [SEP], at most."""

Translation = dict[int, str]
"""For `str.translate`: a character or "" (vanishes) by code point. cuDF takes no None."""

# Every table is made from this one and so covers NUL: cuDF 26.10 miscounts the bytes of a NUL that it does not replace.
_CANONICAL: Translation = {
    **{ord(character): ascii_ for ascii_, characters in LOOK_ALIKES.items() for character in characters},
    **dict.fromkeys((*range(32), 127), " "),
}


def _then(changes: Mapping[str, str]) -> Translation:
    """Return the table that gives the canonical text and changes characters of that."""
    direct = {ord(character): changed for character, changed in changes.items()}
    return direct | {code: changes.get(character, character) for code, character in _CANONICAL.items()}


_MARKLESS = _then(dict.fromkeys(string.punctuation, ""))
_LETTERS = _then(dict.fromkeys(string.punctuation + " ", ""))
_WORDS = _then(
    dict.fromkeys(string.punctuation, " ")
    | dict(zip(string.ascii_uppercase, string.ascii_lowercase, strict=True))
    | {"'": ""}
)
# Without closing marks, and with one mark for three, a sentence ends wherever that mark stands before a space.
_SENTENCES = _then(dict.fromkeys("!?", ".") | dict.fromkeys(CLOSING_MARKS, ""))


@dataclass(frozen=True)
class Rapids:
    """What the device code calls: RAPIDS on a GPU, and whatever answers the same calls in tests.

    Attributes:
        xdf: cudf, or pandas.
        xp: cupy, or numpy.
        CharacterNormalizer, WordPieceVocabulary: cuDF's.
    """

    xdf: Any
    xp: Any
    CharacterNormalizer: Any
    WordPieceVocabulary: Any

    def strings(self, excerpts: Sequence[bytes]) -> Any:
        """Copy UTF-8 excerpts to the device: a Series of strings."""
        return self.xdf.Series([excerpt.decode() for excerpt in excerpts])

    def words(self, texts: Any) -> Any:
        """Split a Series of texts at spaces: a DataFrame of each `word` and the `row` of its text, in their order."""
        split = {"row": self.xp.arange(len(texts)), "word": texts.str.split(" ")}
        words = self.xdf.DataFrame(split).explode("word", ignore_index=True)
        return words[words["word"].str.len() > 0]


def load_rapids() -> Rapids:
    """Import RAPIDS, which takes seconds and a GPU."""
    with needs("gpu"):
        import cudf
        import cupy
        from cudf.core.character_normalizer import CharacterNormalizer
        from cudf.core.wordpiece_tokenize import WordPieceVocabulary

    return Rapids(cudf, cupy, CharacterNormalizer, WordPieceVocabulary)


class DeviceFeatureCounter:
    """Count the features of excerpts on a GPU, given the word lists that the forest was fitted with."""

    def __init__(self, word_lists: WordLists, rapids: Rapids) -> None:
        listed = (*word_lists.most, *word_lists.least)
        known = {word: number for number, word in enumerate(sorted({*listed, *STOP_WORDS}))}
        self._rapids = rapids
        self._known = rapids.xdf.DataFrame({"word": list(known), "number": list(known.values())})
        self._n_known = len(known)
        self._listed = rapids.xp.asarray([known[word] for word in listed])
        self._stop_words = rapids.xp.asarray([known[word] for word in STOP_WORDS])

    def count(self, excerpts: Sequence[bytes]) -> Any:
        """Count UTF-8 excerpts, at least one: int32 [rows, N_COUNTS] on the device."""
        xp, n_rows = self._rapids.xp, len(excerpts)
        texts = self._rapids.strings(excerpts)
        lengths, markless, letters = (
            texts.str.translate(table).str.len().values for table in (_CANONICAL, _MARKLESS, _LETTERS)
        )
        sentences = (texts.str.translate(_SENTENCES) + " ").str.count("[.] ").values

        words = self._rapids.words(texts.str.translate(_WORDS))
        known = words.merge(self._known, on="word")
        cells = (known["row"] * self._n_known + known["number"]).values
        occurrences = xp.bincount(cells, minlength=n_rows * self._n_known).reshape(n_rows, self._n_known)
        base = (
            xp.bincount(words["row"].values, minlength=n_rows),
            xp.bincount(words.drop_duplicates()["row"].values, minlength=n_rows),
            lengths - markless,
            xp.maximum(sentences, 1),
            occurrences[:, self._stop_words].sum(axis=1),
            letters,
        )
        return xp.concatenate([xp.stack(base, axis=1), occurrences[:, self._listed]], axis=1).astype("int32")

    def features(self, excerpts: Sequence[bytes]) -> Any:
        """Return float32 [rows, 207] on the device for UTF-8 excerpts with at least one word each."""
        return features(self.count(excerpts))


class DeviceTokenEncoder:
    """Encode excerpts on a GPU by the WordPiece vocabulary of a Hugging Face `tokenizer.json`, cut at 512 tokens."""

    def __init__(self, tokenizer_json: Path, rapids: Rapids) -> None:
        tokenizer = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        kinds = [tokenizer[part]["type"] for part in ("normalizer", "pre_tokenizer", "model")]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            raise ValueError(
                f"{tokenizer_json}: expected BERT's WordPiece tokenizer, got {', '.join(kinds)}. Use the CPU."
            )
        for option, got, possible in _options(tokenizer["normalizer"], tokenizer["model"]):
            if got not in possible:
                raise ValueError(
                    f"{tokenizer_json}: expected {option} {possible[0]!r}, as cuDF has it, got {got!r}. Use the CPU."
                )
        vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[word] for word in words] != list(range(len(words))):
            raise ValueError(f"{tokenizer_json}: expected ids from 0 on, as cuDF has them, got a gap. Use the CPU.")
        self._rapids = rapids
        self._cls, self._sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._unknown = tokenizer["model"]["unk_token"]
        self._max_word_length = tokenizer["model"]["max_input_chars_per_word"]
        special = rapids.xdf.Series([token["content"] for token in tokenizer["added_tokens"]])
        self._normalizer = rapids.CharacterNormalizer(tokenizer["normalizer"]["lowercase"], special_tokens=special)
        self._pieces = rapids.WordPieceVocabulary(rapids.xdf.Series(words))

    def encode(self, excerpts: Sequence[bytes]) -> list[Any]:
        """Return each UTF-8 excerpt's token ids, int64 [tokens] on the device, [CLS] and [SEP] included."""
        ids, row, place, _ = self._tokenize(excerpts)
        kept = place < N_PIECES
        return self._framed(ids[kept], row[kept], place[kept], len(excerpts))

    def windows(self, excerpts: Sequence[bytes]) -> list[list[Any]]:
        """Return all of each excerpt: one window after the other, each like a row of `encode`, which is the first."""
        ids, row, place, n_pieces = self._tokenize(excerpts)
        n_windows = self._rapids.xp.maximum((n_pieces + N_PIECES - 1) // N_PIECES, 1)
        window = self._starts(n_windows)[row] + place // N_PIECES
        counts = n_windows.tolist()
        framed = iter(self._framed(ids, window, place % N_PIECES, sum(counts)))
        return [list(islice(framed, count)) for count in counts]

    def _tokenize(self, excerpts: Sequence[bytes]) -> tuple[Any, Any, Any, Any]:
        """Return each piece's id, the row that it belongs to, its place there, and the number of pieces per row."""
        xp = self._rapids.xp
        words = self._rapids.words(self._normalizer.normalize(self._rapids.strings(excerpts)))
        short = words["word"].where(words["word"].str.len() <= self._max_word_length, self._unknown)
        # Word by word, not text by text: cuDF 26.10 loses words at its limit of words per row.
        pieces = self._pieces.tokenize(short).explode()
        row = words["row"].values[pieces.index.values]
        n_pieces = xp.bincount(row, minlength=len(excerpts))
        return pieces.values.astype("int64"), row, xp.arange(len(row)) - self._starts(n_pieces)[row], n_pieces

    def _framed(self, ids: Any, row: Any, place: Any, n_rows: int) -> list[Any]:
        """Cut ids into rows between [CLS] and [SEP]. Nothing but the rows' lengths is copied to the host."""
        xp = self._rapids.xp
        lengths = xp.bincount(row, minlength=n_rows) + 2
        starts = self._starts(lengths)
        bounds: list[int] = [*starts.tolist(), len(ids) + 2 * n_rows]
        framed = xp.full(bounds[-1], self._sep, dtype="int64")
        framed[starts] = self._cls
        framed[starts[row] + 1 + place] = ids
        return [framed[begin:end] for begin, end in pairwise(bounds)]

    def _starts(self, lengths: Any) -> Any:
        return self._rapids.xp.cumsum(lengths) - lengths

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


def _options(normalizer: dict[str, Any], model: dict[str, Any]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name the options that cuDF leaves no choice of, with what a tokenizer says and what it may say."""
    yield "clean_text", normalizer["clean_text"], (True,)
    yield "handle_chinese_chars", normalizer["handle_chinese_chars"], (True,)
    yield "strip_accents", normalizer["strip_accents"], (normalizer["lowercase"], None)  # None: as lowercase
    yield "continuing_subword_prefix", model["continuing_subword_prefix"], ("##",)
