"""The libraries that the device code calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dualpath.extras import needs


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
