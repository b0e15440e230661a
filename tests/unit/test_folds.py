"""Grouped folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.errors import UserError
from dualpath.training.corpus import Corpus, split


def corpus(groups: list[int]) -> Corpus:
    return Corpus([b"x"] * len(groups), np.zeros(len(groups), np.float32), np.array(groups, np.int64))


@given(
    st.lists(st.integers(0, 40), min_size=30, max_size=120).filter(lambda groups: len(set(groups)) >= 5),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_every_row_is_tested_once_and_no_group_is_split(groups: list[int], n_folds: int, seed: int) -> None:
    folds = split(corpus(groups), n_folds, seed)
    assert len(folds) == n_folds
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(groups)))
    of = np.array(groups)
    for fold in folds:
        assert fold.test.dtype == fold.train.dtype == np.int64
        assert sorted([*fold.train.tolist(), *fold.test.tolist()]) == list(range(len(groups)))
        assert not {*of[fold.train].tolist()} & {*of[fold.test].tolist()}
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= np.bincount(groups).max()


def test_folds_are_the_same_for_a_seed_and_others_for_another() -> None:
    rows = corpus([row // 3 for row in range(300)])
    tests = [[fold.test.tolist() for fold in split(rows, 5, seed)] for seed in (0, 0, 1)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_sizes_are_equal_where_one_group_is_large() -> None:
    folds = split(corpus([0] * 40 + list(range(1, 161))), 5, 3)
    assert [len(fold.test) for fold in folds] == [40] * 5


@pytest.mark.parametrize(("n_folds", "found"), [(1, "expected 2 or more, got 1"), (4, "sources of excerpts, got 3")])
def test_folds_that_cannot_be_are_refused(n_folds: int, found: str) -> None:
    with pytest.raises(UserError, match=found):
        split(corpus([0, 1, 2, 2]), n_folds)
