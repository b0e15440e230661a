"""The blend of two models by weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.training.blend import WEIGHTS, Blend, blend, plot, rmse
from dualpath.training.corpus import Fold

RNG = np.random.default_rng(0)
TARGETS = RNG.normal(size=400).astype(np.float32)
BERT = (TARGETS + RNG.normal(0, 0.3, 400)).astype(np.float32)
FOREST = (TARGETS + RNG.normal(0, 0.6, 400)).astype(np.float32)
HALVES = [Fold(np.arange(200, 400), np.arange(200)), Fold(np.arange(200), np.arange(200, 400))]


def test_errors_are_those_of_the_blend_at_each_weight() -> None:
    found = blend(BERT, FOREST, TARGETS)
    assert len(found.rmse) == len(WEIGHTS) == 101
    assert found.bert_rmse == pytest.approx(rmse(BERT, TARGETS))
    assert found.forest_rmse == pytest.approx(rmse(FOREST, TARGETS))
    assert found.rmse[30] == pytest.approx(rmse(0.3 * BERT + 0.7 * FOREST, TARGETS), rel=1e-6)


def test_independent_errors_blend_by_their_variances() -> None:
    found = blend(BERT, FOREST, TARGETS)
    assert found.best_weight == pytest.approx(0.36 / (0.36 + 0.09), abs=0.06)
    assert found.best_rmse < min(found.bert_rmse, found.forest_rmse)


def test_nested_weight_of_a_fold_is_chosen_on_the_others() -> None:
    # In the first half BERT is right, in the second the forest: each half gets the other's weight.
    wrong = TARGETS + 1
    bert, forest = (np.concatenate([a[:200], b[200:]]) for a, b in ((TARGETS, wrong), (wrong, TARGETS)))
    found = blend(bert, forest, TARGETS, HALVES)
    assert found.best_weight == 0.5
    assert found.best_rmse == pytest.approx(0.5, rel=1e-5)
    assert found.nested_rmse == pytest.approx(1, rel=1e-5)
    assert blend(bert, forest, TARGETS).nested_rmse is None


@given(st.integers(0, 2**32 - 1))
def test_nested_error_is_not_below_the_best(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(400)
    folds = [Fold(np.setdiff1d(order, test), test) for test in np.split(order, 4)]
    found = blend(BERT, FOREST, TARGETS, folds)
    assert found.nested_rmse is not None
    # Not so for every set of scores: each fold may have a weight of its own. With these, all folds agree about it.
    assert found.nested_rmse >= found.best_rmse - 1e-3


def test_rows_without_a_score_are_refused() -> None:
    holes = BERT.copy()
    holes[:3] = np.nan
    with pytest.raises(ValueError, match="bert: expected finite scores of all rows, got 3 others"):
        blend(holes, FOREST, TARGETS)


def test_plot_is_a_png_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    found = blend(BERT, FOREST, TARGETS)
    plot(found, tmp_path / "one.png")
    plot(found, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    plot(Blend(tuple([0.5] * 101)), tmp_path / "flat.png")
