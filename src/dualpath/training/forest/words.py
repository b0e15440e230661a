"""Which 200 words the forest counts: those whose share of an excerpt tells most of its rating."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.readability.features import N_LISTED, WordLists, canonical, words

MIN_EXCERPTS = 10
"""A word in fewer excerpts is listed only if there are not enough others: its correlation is mostly chance."""


def telling_words(excerpts: Sequence[bytes], targets: npt.NDArray[np.float32]) -> WordLists:
    """Choose the words whose share of an excerpt's words correlates most with the target, either way.

    The first hundred stand in one list and the next hundred in the other. Equal correlations go by the alphabet.

    Args:
        excerpts: UTF-8, each with a word.
        targets: float32 [excerpts].
    Raises:
        UserError: the excerpts have fewer than 200 distinct words.
    """
    counts = [Counter(words(canonical(excerpt))) for excerpt in excerpts]
    known = sorted({word for of_one in counts for word in of_one})
    if len(known) < 2 * N_LISTED:
        raise UserError(
            f"forest: expected excerpts with at least {2 * N_LISTED} distinct words to fit on, got {len(known)}. "
            "Add rated excerpts."
        )
    place = {word: number for number, word in enumerate(known)}
    column = np.array([place[word] for of_one in counts for word in of_one])
    row = np.repeat(np.arange(len(counts)), [len(of_one) for of_one in counts])
    share = np.array([n / of_one.total() for of_one in counts for n in of_one.values()])

    def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(column, values, len(known)).astype(np.float64)

    centred = targets.astype(np.float64) - targets.mean(dtype=np.float64)
    # The target's own deviation is left out: it is the same for every word.
    deviation = np.sqrt(np.maximum(total(np.square(share)) / len(counts) - (total(share) / len(counts)) ** 2, 0))
    tells = np.abs(total(share * centred[row])) / np.maximum(deviation, np.finfo(np.float64).tiny)
    tells[deviation < 1e-9] = 0
    rare = np.bincount(column, minlength=len(known)) < MIN_EXCERPTS
    best = np.lexsort((np.arange(len(known)), -tells, rare))[: 2 * N_LISTED]
    listed = [known[number].decode() for number in best]
    return WordLists(tuple(listed[:N_LISTED]), tuple(listed[N_LISTED:]))
