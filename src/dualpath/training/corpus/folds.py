"""Grouped folds: every model of a comparison is fitted and scored on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.training.corpus.rated import N_FOLDS, Corpus

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows to fit on and rows to score, both int64 [rows] in ascending order, without a row or a group in common."""

    train: Indexes
    test: Indexes


def split(corpus: Corpus, n_folds: int = N_FOLDS, seed: int = 0) -> list[Fold]:
    """Split a corpus so that each row is scored once, with no row of its group among those fitted on.

    The largest groups are dealt out first, each to the fold with the fewest rows: folds differ by no more rows than the
    corpus' largest group has. Groups of one size, and folds of one size, are taken in an order drawn by `seed`.

    Raises:
        UserError: fewer than two folds, or fewer groups than folds.
    """
    if n_folds < 2:
        raise UserError(f"folds: expected 2 or more, got {n_folds}. Ask for more.")
    if corpus.n_groups < n_folds:
        raise UserError(
            f"{n_folds} folds: expected at least as many sources of excerpts, got {corpus.n_groups}. "
            "Ask for fewer folds."
        )
    generator = np.random.default_rng(seed)
    _, group_of, sizes = np.unique(corpus.groups, return_inverse=True, return_counts=True)
    dealt = generator.permutation(len(sizes))
    fold_of = np.empty(len(sizes), np.int64)
    n_rows = np.zeros(n_folds, np.int64)
    for group in dealt[np.argsort(-sizes[dealt], kind="stable")]:
        fold_of[group] = generator.choice(np.flatnonzero(n_rows == n_rows.min()))
        n_rows[fold_of[group]] += sizes[group]
    row_fold = fold_of[group_of]
    return [Fold(np.flatnonzero(row_fold != fold), np.flatnonzero(row_fold == fold)) for fold in range(n_folds)]
