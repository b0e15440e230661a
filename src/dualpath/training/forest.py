"""The forest, and which words it counts: fitted by scikit-learn, or by cuML on a GPU; exported for Treelite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import treelite

from dualpath.errors import UserError
from dualpath.readability.contract import FOREST
from dualpath.readability.features import N_LISTED, FeatureCounter, WordLists, canonical, features, words
from dualpath.training.blend import rmse
from dualpath.training.corpus import Corpus, Fold

FOREST_ENGINES = ("auto", "cuml", "sklearn")
LARGEST_DIFFERENCE = {"sklearn": 1e-6, "cuml": 1e-5}
"""Between the trained forest's prediction and Treelite's. Scores are served in float32, whose rounding is up to 1e-7
here; scikit-learn adds up 100 trees in float64, cuML in float32 and in an order of its own."""
N_TREES = 100
MIN_EXCERPTS = 10
"""A word in fewer excerpts is listed only if there are not enough others: its correlation is mostly chance."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ForestTable:
    """What a forest is fitted from: counts [excerpts, N_COUNTS], targets, the words counted."""

    counts: npt.NDArray[np.int32]
    targets: Floats
    word_lists: WordLists

    @classmethod
    def from_excerpts(cls, excerpts: list[bytes], targets: Floats) -> ForestTable:
        """Make the word lists from the excerpts and count."""
        word_lists = telling_words(excerpts, targets)
        return cls(FeatureCounter(word_lists).count(excerpts), targets, word_lists)

    @classmethod
    def load(cls, path: Path) -> ForestTable:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            word_lists = WordLists(tuple(arrays["most"].tolist()), tuple(arrays["least"].tolist()))
            return cls(arrays["counts"].astype(np.int32), arrays["targets"], word_lists)

    def save(self, path: Path) -> None:
        """Write a compressed .npz file; equal tables give equal bytes."""
        counts = self.counts.astype(np.min_scalar_type(int(self.counts.max())))
        most, least = np.array(self.word_lists.most), np.array(self.word_lists.least)
        np.savez_compressed(path, counts=counts, targets=self.targets, most=most, least=least)


@dataclass(frozen=True)
class Forest:
    """What an engine, "cuml" or "sklearn", has fitted: that library's own model."""

    engine: str
    fitted: Any

    def predict(self, table: Floats) -> Floats:
        """Score features: float32 [rows, 207] -> float32 [rows]."""
        return np.asarray(self.fitted.predict(table), np.float32)


def chosen_engine(engine: str) -> str:
    """Return "cuml" or "sklearn": what is asked for, and for "auto" cuML if it is installed and finds a GPU.

    Raises:
        UserError: no such engine, or cuML is asked for and cannot run.
    """
    if engine not in FOREST_ENGINES:
        raise UserError(
            f"engine: expected {', '.join(FOREST_ENGINES[:-1])} or {FOREST_ENGINES[-1]}, got {engine!r}. Choose one."
        )
    lacking = "" if engine == "sklearn" else _lacking()
    if lacking and engine == "cuml":
        raise UserError(f"engine cuml: expected cuML and a GPU, got {lacking}. Take the engine sklearn, or auto.")
    return "sklearn" if lacking or engine == "sklearn" else "cuml"


def _lacking() -> str:
    """Say what cuML lacks here, nothing if it can run."""
    try:
        import cupy

        if not cupy.is_available():
            return "no GPU"
        import cuml  # noqa: F401
    except ImportError as error:
        return f"that {error.name or 'it'} is not installed"
    return ""


def fit_forest(table: ForestTable, engine: str = "sklearn", seed: int = 0) -> Forest:
    """Fit 100 trees of depth 16 on the table's 207 features, by the `chosen_engine`."""
    engine = chosen_engine(engine)
    return Forest(engine, _unfitted(engine, seed).fit(features(table.counts), table.targets))


def _unfitted(engine: str, seed: int) -> Any:
    if engine == "cuml":
        from cuml import ensemble

        kind, own = ensemble.RandomForestRegressor, {"n_streams": 1}  # with more, a seed does not give the same forest
    else:
        from sklearn.ensemble import RandomForestRegressor  # where Treelite looks its class up

        kind, own = RandomForestRegressor, {"n_jobs": -1}
    return kind(n_estimators=N_TREES, max_depth=16, min_samples_leaf=3, max_features=1 / 3, random_state=seed, **own)


def export_forest(forest: Forest, table: Floats, path: Path) -> None:
    """Write a Treelite checkpoint and hold what it predicts against the forest.

    Args:
        table: features to predict, float32 [rows, 207].
    Raises:
        RuntimeError: the checkpoint predicts something else than the forest.
    """
    fitted = forest.fitted
    model = fitted.as_treelite() if forest.engine == "cuml" else treelite.sklearn.import_model(fitted)
    model.serialize(path)
    served = treelite.gtil.predict(treelite.Model.deserialize(path), table).reshape(-1)
    difference = float(np.abs(served - forest.predict(table)).max())
    if not difference <= LARGEST_DIFFERENCE[forest.engine]:
        raise RuntimeError(
            f"forest: expected Treelite to predict what {forest.engine} does, got {difference:.1e} apart."
        )


def cross_validate_forest(
    corpus: Corpus,
    folds: Sequence[Fold],
    engine: str = "auto",
    on_fold: Callable[[int, float], object] = lambda fold, error: None,
    seed: int = 0,
) -> Floats:
    """Score every excerpt by a forest that has not seen its fold; the word lists have not either.

    Args:
        on_fold: gets each fold's number, from 0, and its root mean squared error, as soon as it is done.
    Returns:
        float32 [rows].
    """
    engine = chosen_engine(engine)
    scores = np.full(len(corpus.excerpts), np.nan, np.float32)
    for number, fold in enumerate(folds):
        table = ForestTable.from_excerpts([corpus.excerpts[row] for row in fold.train], corpus.targets[fold.train])
        unseen = FeatureCounter(table.word_lists).features([corpus.excerpts[row] for row in fold.test])
        scores[fold.test] = fit_forest(table, engine, seed).predict(unseen)
        on_fold(number, rmse(scores[fold.test], corpus.targets[fold.test]))
    return scores


def write_forest(forest: Forest, table: ForestTable, folder: Path) -> None:
    """Write the files of the model `cuml`: what `export_forest` does, and the word lists of the forest's table."""
    assert FOREST.artifact
    assert FOREST.companion
    export_forest(forest, features(table.counts), folder / FOREST.artifact)
    (folder / FOREST.companion).write_text(table.word_lists.to_json(), encoding="utf-8")


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
