"""A training run, from a file of rated excerpts to a published version of the models."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath import __version__
from dualpath.errors import UserError
from dualpath.extras import installed
from dualpath.readability.contract import BERT, FOREST
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.repository.publishing import check_target, publish
from dualpath.training.bert.settings import Settings
from dualpath.training.blend import blend, plot, rmse
from dualpath.training.card import PAGE_FILE, Card
from dualpath.training.corpus import Corpus, Fold, read_corpus, split
from dualpath.training.forest import ForestTable, chosen_engine, cross_validate_forest, fit_forest, write_forest
from dualpath.training.runs import PartReport, fingerprint, opened

RUNS = Path("runs")
FINE_TUNED, FROZEN, BETTER = "fine-tuned", "frozen", "better"
SERVED_ROWS = 64
"""Rows of like length that the version before is given at a time."""
BLEND_FIGURE = "blend.png"


@dataclass(frozen=True)
class TrainingJob:
    """What to train, as by the options of `dualpath train`.

    Attributes:
        models: BERT's name, the forest's, or both.
        keep: which BERT to publish: FINE_TUNED, FROZEN, or of these the one with the lower error (BETTER).
        run_dir: folder to keep unfinished work in; None is one below `runs` that is told apart by what is asked for.
    """

    data: Path
    models: Sequence[str]
    model_repository: Path
    n_folds: int = 5
    seed: int = 0
    encoder: str = "minilm"
    precision: str = "float32"
    settings: Settings = field(default_factory=Settings)
    keep: str = BETTER
    engine: str = "auto"
    run_dir: Path | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Trained:
    """What was found and written.

    Attributes:
        files: by model, the names of the files of its new version.
        run_dir: where finished parts are kept, None without BERT.
        notes: sentences for the user: which BERT was published, and which model got worse.
    """

    card: Card
    version: int
    files: dict[str, list[str]]
    run_dir: Path | None
    notes: list[str]


def train(job: TrainingJob, report: PartReport) -> Trained:
    """Cross-validate, fit on everything, and publish; what was served before stays until all is checked.

    Raises:
        UserError: the file, an option or the model repository is not as it must be.
        RuntimeError: an exported model does not score what the original scores.
    """
    check_target(job.model_repository, job.models)
    corpus = read_corpus(job.data, job.n_folds)
    training = _Training(job, corpus, split(corpus, job.n_folds, job.seed), report)
    if FOREST.name in job.models:
        training.forest()
    if BERT.name in job.models:
        training.bert()
    card = training.card()
    notes = [*_choice(card), *_worse(job, corpus, card)]

    def write(model: str, folder: Path) -> Facts:
        training.write[model](folder)
        (folder / PAGE_FILE).write_text(card.page(), encoding="utf-8")
        if card.blend:
            plot(card.blend, folder / BLEND_FIGURE)
        encoder, precision = (job.encoder, job.precision) if model == BERT.name else (None, None)
        return card.facts(encoder, precision)

    written = {model: partial(write, model) for model in job.models}
    version = publish(job.model_repository, written, lambda line: report("publishing", 0, 1, line))
    folders = {model: job.model_repository / model / str(version) for model in job.models}
    names = {model: sorted(path.name for path in folder.iterdir()) for model, folder in folders.items()}
    return Trained(card, version, names, training.run_dir, notes)


def _choice(card: Card) -> Iterator[str]:
    """Say which BERT is published."""
    if card.kept:
        by_name = {FINE_TUNED: card.tuned_rmse, FROZEN: card.head_rmse}
        [other] = by_name.keys() - {card.kept}
        yield (f"{BERT.name}: published {card.kept}, RMSE {by_name[card.kept]:.3f}; {other} has {by_name[other]:.3f}.")


def _worse(job: TrainingJob, corpus: Corpus, card: Card) -> Iterator[str]:
    """Warn of each model whose newest version so far has a lower error on the same rows."""
    import torch

    from dualpath.readability.reference import Reference

    by_length = sorted(range(len(corpus.excerpts)), key=lambda row: len(corpus.excerpts[row]))
    for model, key, method in ((BERT.name, "bert_rmse", "bert"), (FOREST.name, "forest_rmse", "forest")):
        error, version = getattr(card, key), newest(job.model_repository / model)
        if error is None:
            continue
        training = Facts.of(version).training or {}
        if training.get("data_digest") == corpus.digest:
            before, how = training[key], "out of fold"
        else:
            try:
                score = getattr(Reference(job.model_repository, torch.get_num_threads()), method)
                scores = np.empty_like(corpus.targets)
                for start in range(0, len(by_length), SERVED_ROWS):
                    rows = by_length[start : start + SERVED_ROWS]
                    scores[rows] = score([corpus.excerpts[row] for row in rows])
            except (UserError, OSError, ValueError, RuntimeError):
                continue  # there is none yet, or it cannot be loaded
            before, how = rmse(scores, corpus.targets), "which flatters it if it was fitted on them"
        if before < error:
            yield (
                f"warning: {model}: the new version has RMSE {error:.3f} out of fold, version {version.name} has "
                f"{before:.3f} on the same rows, {how}. `dualpath reload --to {version.name}` serves that one."
            )


class _Training:
    """One run under way; its facts gather, and what writes the files of each model that is fitted."""

    def __init__(self, job: TrainingJob, corpus: Corpus, folds: Sequence[Fold], report: PartReport) -> None:
        self._job, self._corpus, self._folds, self._report = job, corpus, folds, report
        self._scores: dict[str, npt.NDArray[np.float32]] = {}
        self.run_dir: Path | None = None
        self.write: dict[str, Callable[[Path], None]] = {}
        self._elapsed_s = 0.0
        self._packages = {"dualpath": __version__}
        self._facts: dict[str, Any] = {}

    def forest(self) -> None:
        """Cross-validate the forest and fit it on everything."""
        started, n_folds, seed = time.monotonic(), len(self._folds), self._job.seed

        def on_fold(number: int, error: float) -> None:
            self._report("forest", number + 1, n_folds + 1, f"RMSE {error:.3f}")

        engine = chosen_engine(self._job.engine)
        self._report("forest", 0, n_folds + 1, engine)
        scores = cross_validate_forest(self._corpus, self._folds, engine, on_fold, seed)
        table = ForestTable.from_excerpts(self._corpus.excerpts, self._corpus.targets)
        forest = fit_forest(table, engine, seed)
        error = rmse(scores, self._corpus.targets)
        self._report("forest", n_folds + 1, n_folds + 1, f"RMSE {error:.3f} out of fold")
        self._scores[FOREST.name] = scores
        self.write[FOREST.name] = lambda folder: write_forest(forest, table, folder)
        self._facts |= {"engine": engine, "forest_rmse": error}
        self._elapsed_s += time.monotonic() - started
        self._packages |= installed("scikit-learn", "treelite")

    def bert(self) -> None:
        """Fine-tune BERT on every fold; fit on everything the better of the fine-tuned and the frozen encoder."""
        from dualpath.training.bert import training as bert

        job, targets = self._job, self._corpus.targets
        identity = bert.identity(self._corpus.digest, job.encoder, job.n_folds, job.seed, job.settings)
        self.run_dir = job.run_dir or RUNS / f"{Path(job.encoder).resolve().name}-{fingerprint(identity)}"
        with opened(self.run_dir, identity, job.fresh) as run:
            training = bert.BertTraining(self._corpus, job.encoder, job.settings, run, self._report)
            results = training.cross_validate(self._folds)
            scores = {FINE_TUNED: np.empty_like(targets), FROZEN: np.empty_like(targets)}
            for fold, result in zip(self._folds, results, strict=True):
                scores[FINE_TUNED][fold.test], scores[FROZEN][fold.test] = result.scores, result.frozen
            errors = {name: rmse(found, targets) for name, found in scores.items()}
            kept = min(errors, key=errors.__getitem__) if job.keep == BETTER else job.keep
            regressor, elapsed_s = training.fit(results) if kept == FINE_TUNED else (training.fit_head(), 0.0)
        self.write[BERT.name] = lambda folder: training.write(regressor, folder, job.precision)
        self._scores[BERT.name] = scores[kept]
        self._facts |= {
            "encoder": job.encoder,
            "kept": kept,
            "bert_rmse": errors[kept],
            "tuned_rmse": errors[FINE_TUNED],
            "head_rmse": errors[FROZEN],
        }
        self._elapsed_s += elapsed_s + sum(result.elapsed_s for result in results)
        self._packages |= installed("torch", "transformers", "tokenizers")

    def card(self) -> Card:
        """Return the run's card."""
        job, corpus, facts = self._job, self._corpus, dict(self._facts)
        if len(self._scores) == 2:
            facts["blend"] = blend(self._scores[BERT.name], self._scores[FOREST.name], corpus.targets, self._folds)
        return Card(
            data=job.data.name,
            data_digest=corpus.digest,
            n_rows=len(corpus.excerpts),
            n_groups=corpus.n_groups,
            n_folds=job.n_folds,
            seed=job.seed,
            target_deviation=float(corpus.targets.std()),
            versions=self._packages,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            elapsed_s=self._elapsed_s,
            **facts,
        )
