"""The forest's 207 features: counts of words, marks and sentences, word length, and frequencies of 200 listed words.

Every step is an operation on characters that a GPU string library has too (replace single characters, split at
spaces, count), so that another implementation can give exactly the same counts:

1. *Canonical text*: typographic marks become their ASCII look-alikes, every kind of white space and ASCII control
   character becomes a space, zero-width characters vanish.
2. *Punctuation marks* are the 32 ASCII ones in the canonical text.
3. *Sentences* end at a `.`, `!` or `?`, then any closing quotes and brackets, then a space or the text's end; a text
   has at least one.
4. *Words*: apostrophes vanish, other marks become spaces, A to Z become lower case, spaces separate the words.
   Letters beyond ASCII stay as they are. The characters of all words are the *letters*.

    "Don't panic -- said the well-known Guide."  ->  dont panic said the well known guide
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.readability.contract import N_FEATURES

N_LISTED = 100
N_BASE = 6
N_COUNTS = N_BASE + 2 * N_LISTED
"""Counts per excerpt: words, distinct words, punctuation marks, sentences, stop words, letters; 200 listed words."""

PIECE_BYTES = 65_536
"""A longer text is counted in pieces."""

LOOK_ALIKES = {
    "'": "‘’‚‛′ʼ`´＇",
    '"': "“”„‟″«»＂",
    "-": "‐‑‒–—―−－",
    ".": "…。．｡",
    ",": "،、，､",
    "!": "！¡",
    "?": "？؟¿",
    ";": "；؛",
    ":": "：",
    "(": "（【「『《〈",
    ")": "）】」』》〉",
    "*": "•·†‡",
    " ": "\u0080\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000",
    "": "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufe0e\ufe0f\ufeff",
}
"""Characters beyond ASCII that step 1 replaces, by what replaces them."""

_FUNCTION_WORDS = """
the a an
i me my mine myself we us our ours ourselves you your yours yourself yourselves thou thee thy thine
he him his himself she her hers herself it its itself they them their theirs themselves one ones
this that these those here there who whom whose which what when where why how
all any both each either every few less little many more most much neither none no nothing other others another
same several some somebody someone something such anybody anyone anything everybody everyone everything nobody
am is are was were be been being have has had having do does did doing done
can could may might must shall should will would ought
isnt arent wasnt werent havent hasnt hadnt dont doesnt didnt cant cannot couldnt mustnt shant shouldnt wont wouldnt
im ive id ill youre youve youd youll hes shes theyre theyve theyd theyll weve wed thats theres whos lets
and but or nor so yet if then else than because although though while until unless since whether as
of at by for with without about against between among into onto through during before after above below to from
up down in out on off over under upon within along across behind beside beyond near toward towards
again further once not only own too very just also even ever never always still now
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words, spelled as `words` gives them: lower case, without apostrophes."""

CLOSING_MARKS = "\"')]}"
"""What may stand between a sentence's last mark and the space after it, in the canonical text."""

# The hot path works on UTF-8 bytes: `bytes.translate` handles a whole excerpt in a microsecond, and UTF-8's
# structure makes a replacement of byte sequences the same as one of characters.
_REPLACEMENT = {
    character.encode(): ascii_.encode()
    for ascii_, characters in LOOK_ALIKES.items()
    for character in characters
    if not character.isascii()
}
_BEYOND_ASCII = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_CONTROLS = bytes(range(32)) + b"\x7f"
_TO_CANONICAL = bytes.maketrans(_CONTROLS + b"`", b" " * len(_CONTROLS) + b"'")
_MARKS = string.punctuation.encode()
_TO_WORDS = bytes.maketrans(
    _MARKS + string.ascii_uppercase.encode(), b" " * len(_MARKS) + string.ascii_lowercase.encode()
)
_NO_LETTERS = _MARKS + b" " + bytes(range(0x80, 0xC0))
"""What is left out to count letters; of a letter beyond ASCII, all bytes but the first."""
# One mark, not a run of them: a search that restarts inside a run would be quadratic in its length.
_SENTENCE_END = re.compile(rb"[.!?][%b]* " % re.escape(CLOSING_MARKS.encode()))
_ASCII_WORD = re.compile(rb"[0-9A-Za-z]")
_STOP_WORDS = frozenset(word.encode() for word in STOP_WORDS)


@dataclass(frozen=True)
class WordLists:
    """The 200 words that are counted, in two lists: those that tell most of the rating, and the next hundred."""

    most: tuple[str, ...]
    least: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> WordLists:
        """Read the JSON that `to_json` gives."""
        lists = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(lists["most"]), tuple(lists["least"]))

    def to_json(self) -> str:
        """Return both lists as the JSON that `load` reads."""
        return json.dumps({"most": self.most, "least": self.least}, indent=1, ensure_ascii=False)


def canonical(excerpt: bytes) -> bytes:
    """Return the canonical text (step 1) of a UTF-8 excerpt."""
    if not excerpt.isascii():
        excerpt = _BEYOND_ASCII.sub(lambda match: _REPLACEMENT.get(match[0], match[0]), excerpt)
    return excerpt.translate(_TO_CANONICAL)


def words(canonical_text: bytes) -> list[bytes]:
    """Return the words (step 4) of a canonical text."""
    return canonical_text.translate(_TO_WORDS, b"'").split()


def holds_word(excerpt: bytes) -> bool:
    """Tell whether a UTF-8 excerpt has a word."""
    return _ASCII_WORD.search(excerpt) is not None or bool(words(canonical(excerpt)))


def _pieces(canonical_text: bytes) -> Iterator[bytes]:
    """Cut a text after spaces, so that no step on a long one keeps Python's lock for more than a millisecond."""
    start, text = 0, canonical_text + b" "
    while len(text) - start > PIECE_BYTES:
        end = text.rfind(b" ", start, start + PIECE_BYTES) + 1 or text.find(b" ", start + PIECE_BYTES) + 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


class FeatureCounter:
    """Count the features of excerpts, given the word lists that the forest was fitted with."""

    def __init__(self, word_lists: WordLists) -> None:
        listed = [word.encode() for word in (*word_lists.most, *word_lists.least)]
        words_counted = dict.fromkeys([*listed, *_STOP_WORDS])
        self._slots = {word: slot for slot, word in enumerate(words_counted, start=1)}  # 0 is for all other words
        self._listed_slots = np.array([self._slots[word] for word in listed])
        self._stop_slots = np.array([self._slots[word] for word in _STOP_WORDS])

    def count(self, excerpts: Sequence[bytes]) -> npt.NDArray[np.int32]:
        """Count UTF-8 excerpts, one row of int32 [N_COUNTS] each."""
        all_words: list[bytes] = []
        basics = np.zeros((len(excerpts), N_BASE), np.int32)
        for row, excerpt in zip(basics, excerpts, strict=True):
            distinct: set[bytes] = set()
            n_words, n_marks, n_sentences, n_letters = len(all_words), 0, 0, 0
            for text in _pieces(canonical(excerpt)):
                found = words(text)
                all_words += found
                distinct.update(found)
                n_marks += len(text) - len(text.translate(None, _MARKS))
                n_sentences += len(_SENTENCE_END.findall(text))
                n_letters += len(text.translate(None, _NO_LETTERS))
            row[:] = len(all_words) - n_words, len(distinct), n_marks, max(1, n_sentences), 0, n_letters
        n_slots = len(self._slots) + 1
        slots = np.fromiter(map(self._slots.get, all_words, repeat(0)), np.intp, len(all_words))
        slots += np.repeat(np.arange(len(excerpts)) * n_slots, basics[:, 0])
        counted = np.bincount(slots, minlength=len(excerpts) * n_slots).reshape(len(excerpts), n_slots)
        basics[:, 4] = counted[:, self._stop_slots].sum(axis=1)
        counts = np.empty((len(excerpts), N_COUNTS), np.int32)
        counts[:, :N_BASE], counts[:, N_BASE:] = basics, counted[:, self._listed_slots]
        return counts

    def features(self, excerpts: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Return float32 [rows, 207] for UTF-8 excerpts with at least one word each."""
        return features(self.count(excerpts))


def features(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Turn counts into features: float32 [rows, 207].

    In this order: words, distinct words, punctuation marks, sentences, words per sentence, stop words, letters per
    word, then each listed word's share of the excerpt's words. Every column is one correctly rounded float32 division
    of whole numbers, so devices agree on it.

    Args:
        counts: int32 [rows, N_COUNTS], in the order of `FeatureCounter.count`.
    """
    n = counts.astype(np.float32)
    n_words, n_sentences, n_stop_words, n_letters = n[:, :1], n[:, 3:4], n[:, 4:5], n[:, 5:6]
    columns = (n[:, :4], n_words / n_sentences, n_stop_words, n_letters / n_words, n[:, N_BASE:] / n_words)
    table: npt.NDArray[np.float32] = np.concatenate(columns, axis=1)
    assert table.shape[1] == N_FEATURES
    return table
