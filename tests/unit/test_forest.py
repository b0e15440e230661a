"""The forest by engine, the words that it counts, its cross-validation and its files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import treelite
from fake_cuml import FakeCuml
from rated import LONG, SHORT, rated

from dualpath.errors import UserError
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.training import forest
from dualpath.training.blend import rmse
from dualpath.training.corpus import Corpus, split
from dualpath.training.forest import MIN_EXCERPTS, telling_words


@pytest.fixture
def cuml(monkeypatch: pytest.MonkeyPatch) -> FakeCuml:
    """A machine with a GPU and cuML."""
    fake = FakeCuml()
    for name in ("cuml", "cupy"):
        monkeypatch.setitem(sys.modules, name, fake)
    return fake


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "N_TREES", 10)


# Words


def test_words_that_tell_easy_from_hard_are_listed_before_frequent_ones() -> None:
    fillers = " ".join(f"filler{number}" for number in range(210))
    excerpts = [f"{word} {fillers} the the the".encode() for word in ("cat", "treaty") for _ in range(MIN_EXCERPTS)]
    lists = telling_words(excerpts, np.repeat([1, -1], MIN_EXCERPTS).astype(np.float32))
    assert lists.most[:2] == ("cat", "treaty")
    assert len({*lists.most, *lists.least}) == 200


def test_words_of_few_excerpts_are_listed_last() -> None:
    excerpts = [
        b" ".join([b"common%d" % (number % 2), *(b"f%d" % filler for filler in range(198))]) for number in range(40)
    ]
    excerpts[0] += b" once"
    targets = np.where(np.arange(40) % 2, 0.1, 0).astype(np.float32)
    targets[0] = 9
    lists = telling_words(excerpts, targets)
    assert "once" not in (*lists.most, *lists.least)


def test_equal_words_are_listed_by_the_alphabet_and_the_same_each_time() -> None:
    corpus = rated(200, 10)
    assert telling_words(corpus.excerpts, corpus.targets) == telling_words(corpus.excerpts, corpus.targets)
    constant = np.zeros(200, np.float32)
    assert telling_words(corpus.excerpts, constant).most == tuple(sorted(SHORT + LONG))[:100]


def test_too_few_words_are_refused() -> None:
    with pytest.raises(UserError, match="at least 200 distinct words to fit on, got 2"):
        telling_words([b"two words"], np.zeros(1, np.float32))


# Engine


@pytest.mark.parametrize(
    ("engine", "n_gpus", "chosen"),
    [("auto", 1, "cuml"), ("auto", 0, "sklearn"), ("cuml", 1, "cuml"), ("sklearn", 1, "sklearn")],
)
def test_engine_is_cuml_where_there_is_a_gpu_unless_told(cuml: FakeCuml, engine: str, n_gpus: int, chosen: str) -> None:
    cuml.n_gpus = n_gpus
    assert forest.chosen_engine(engine) == chosen


def test_cuml_is_refused_in_one_sentence_where_there_is_no_gpu(cuml: FakeCuml) -> None:
    cuml.n_gpus = 0
    with pytest.raises(UserError, match="engine cuml: expected cuML and a GPU, got no GPU"):
        forest.chosen_engine("cuml")


@pytest.mark.parametrize("missing", ["cupy", "cuml"])
def test_missing_package_is_named_when_cuml_is_asked_for(
    cuml: FakeCuml, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert forest.chosen_engine("auto") == "sklearn"
    with pytest.raises(UserError, match=f"got that {missing} is not installed"):
        forest.chosen_engine("cuml")


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(UserError, match="engine: expected auto, cuml or sklearn, got 'xgboost'"):
        forest.chosen_engine("xgboost")


def test_cuml_gets_the_same_forest_to_fit_as_scikit_learn_and_one_stream(cuml: FakeCuml) -> None:
    ours, theirs = forest._unfitted("cuml", 7).parameters, forest._unfitted("sklearn", 7).get_params()
    assert ours.pop("n_streams") == 1
    assert ours == {name: theirs[name] for name in ours}
    assert (ours["n_estimators"], ours["max_depth"], ours["random_state"]) == (100, 16, 7)


# Cross-validation and files


def test_cross_validated_scores_are_better_than_the_mean_and_reported_by_fold(few_trees: None) -> None:
    corpus = rated(150, 30)
    folds = split(corpus, 3)
    reported: list[tuple[int, float]] = []
    scores = forest.cross_validate_forest(
        corpus, folds, "sklearn", lambda number, error: reported.append((number, error))
    )
    assert scores.dtype == np.float32
    assert rmse(scores, corpus.targets) < 0.6 * corpus.targets.std()
    assert reported == [(n, rmse(scores[fold.test], corpus.targets[fold.test])) for n, fold in enumerate(folds)]


def test_scored_rows_influence_neither_word_lists_nor_trees(few_trees: None) -> None:
    corpus = rated(90, 30)
    folds = split(corpus, 3)
    changed = corpus.targets.copy()
    changed[folds[0].test] += 5
    other = Corpus(corpus.excerpts, changed, corpus.groups)
    before, after = (forest.cross_validate_forest(one, folds, "sklearn") for one in (corpus, other))
    assert np.array_equal(before[folds[0].test], after[folds[0].test])
    assert not np.array_equal(before[folds[1].test], after[folds[1].test])


@pytest.mark.parametrize("engine", ["sklearn", "cuml"])
def test_written_files_score_what_the_forest_does(cuml: FakeCuml, few_trees: None, tmp_path: Path, engine: str) -> None:
    corpus = rated(80, 20)
    trees = forest.ForestTable.from_excerpts(corpus.excerpts, corpus.targets)
    fitted = forest.fit_forest(trees, engine)
    forest.write_forest(fitted, trees, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.tl", "word_lists.json"]
    table = FeatureCounter(WordLists.load(tmp_path / "word_lists.json")).features(corpus.excerpts)
    served = treelite.gtil.predict(treelite.Model.deserialize(tmp_path / "checkpoint.tl"), table).reshape(-1)
    np.testing.assert_allclose(served, fitted.predict(table), rtol=0, atol=forest.LARGEST_DIFFERENCE[engine])


def test_checkpoint_that_predicts_something_else_is_refused(cuml: FakeCuml, tmp_path: Path) -> None:
    corpus = rated(80, 20)
    table = forest.ForestTable.from_excerpts(corpus.excerpts, corpus.targets)
    fitted = forest.fit_forest(table, "cuml")
    cuml.bias = 1e-3
    with pytest.raises(RuntimeError, match=r"expected Treelite to predict what cuml does, got 1\.0e-03 apart"):
        forest.write_forest(fitted, table, tmp_path)
