"""The forest's features, counted by string operations on a whole batch.

The definition stands in `dualpath.readability.features`, and so do the word lists and the ratios; the counts here are
those of its `FeatureCounter`, exactly.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from dualpath.readability.device.rapids import Rapids
from dualpath.readability.features import CLOSING_MARKS, LOOK_ALIKES, WordLists, features
from dualpath.readability.stop_words import STOP_WORDS

Table = dict[int, str]
"""For `str.translate`: a character or "" (vanishes) by code point. cuDF takes no None."""

# Every table is made from this one and so covers NUL: cuDF 26.10 miscounts the bytes of a NUL that it does not replace.
_CANONICAL: Table = {
    **{ord(character): ascii_ for ascii_, characters in LOOK_ALIKES.items() for character in characters},
    **dict.fromkeys((*range(32), 127), " "),
}


def _then(changes: Mapping[str, str]) -> Table:
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
