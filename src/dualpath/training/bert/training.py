"""Train the BERT regressor: folds, frozen head, fine-tuning, the final fit, TorchScript."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import GroupShuffleSplit

from dualpath.errors import UserError
from dualpath.readability.contract import MAX_TOKENS
from dualpath.readability.tokens import TokenEncoder
from dualpath.training.bert import batches, finetune
from dualpath.training.bert.encoders import digest, encoder_folder, write_tokenizer
from dualpath.training.bert.export import export_regressor, set_precision
from dualpath.training.bert.regressor import Pooled, Regressor, fit_head, load_encoder
from dualpath.training.bert.settings import Settings, State
from dualpath.training.blend import rmse
from dualpath.training.corpus import Corpus, Fold
from dualpath.training.runs import PartReport, RunFolder

TOKENIZER = "tokenizer.json"
VALIDATION_SHARE = 0.05
"""Of a fold's fitting rows: they say when to stop and how far to go; the fold's own rows are only ever scored."""
FINAL = "final"
DONE_BEFORE = "done before"
"""The note of a part that an earlier run has finished."""

Floats = npt.NDArray[np.float32]
TokenRows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoldScores:
    """What one fold gave.

    Attributes:
        scores: float32 [the fold's rows], by the fine-tuned model.
        frozen: float32 [the fold's rows], by a head on the encoder as it was.
        stop: share of the steps after which the fold's model was best.
        share: of the way from the start to that model, at which it was better still (`finetune.best_share`).
        elapsed_s: of the fold's fitting.
    """

    scores: Floats
    frozen: Floats
    stop: float
    share: float
    elapsed_s: float


class BertTraining:
    """Trains one encoder on one corpus; what is finished is kept in the run's folder and not done again."""

    def __init__(self, corpus: Corpus, encoder: str, settings: Settings, run: RunFolder, report: PartReport) -> None:
        self._corpus, self._settings, self._run, self._report = corpus, settings, run, report
        self._folder = encoder_folder(encoder)
        positions, self._hidden_size = _sizes(self._folder)
        if positions < MAX_TOKENS:
            raise UserError(f"--encoder {encoder}: expected {MAX_TOKENS} positions, got {positions}. Name another.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write_tokenizer(self._folder, run.folder / TOKENIZER)
        self._rows = TokenEncoder(run.folder / TOKENIZER).encode(corpus.excerpts)

    def cross_validate(self, folds: Sequence[Fold]) -> list[FoldScores]:
        """Score each fold's rows by a model that was fitted on the other folds.

        Raises:
            UserError: the other folds of one have not two sources, to fit on and to hold out.
            RuntimeError: a fit gave scores that are no numbers.
        """
        groups = self._corpus.groups
        if any(len(set(groups[fold.train].tolist())) < 2 for fold in folds):
            raise UserError(
                "bert: expected excerpts of two sources or more beside each fold, "
                f"got {self._corpus.n_groups} in all. Add rated excerpts."
            )
        return [self._fold(f"fold-{number}", fold) for number, fold in enumerate(folds, start=1)]

    def fit(self, results: Sequence[FoldScores]) -> tuple[Regressor, float]:
        """Fit on all rows, as far as the folds' models; return the regressor, on the CPU, and the seconds it took."""
        everything = np.arange(len(self._rows))
        stop, share = (float(np.mean(values)) for values in zip(*((it.stop, it.share) for it in results), strict=True))
        tuner, _, _, elapsed_s = self._tune(FINAL, everything, None, stop, share)
        return tuner.regressor.cpu().eval().requires_grad_(False), elapsed_s

    def fit_head(self) -> Regressor:
        """Fit the linear layer alone on all rows; the encoder stays as it was."""
        head, _ = fit_head(self._pooled, self._corpus.targets)
        return Regressor(load_encoder(self._folder), head).eval().requires_grad_(False)

    def write(self, regressor: Regressor, folder: Path, precision: str) -> None:
        """Write model.pt, compared with the eager model, and tokenizer.json into a folder."""
        set_precision(regressor.encoder, precision)
        export_regressor(regressor, folder / "model.pt")
        write_tokenizer(self._folder, folder / TOKENIZER)

    def _fold(self, part: str, fold: Fold) -> FoldScores:
        if done := self._run.done(part):
            self._report(part, 1, 1, DONE_BEFORE)
            numbers = {name: float(done[name]) for name in ("stop", "share", "elapsed_s")}
            return FoldScores(done["scores"], done["frozen"], **numbers)
        corpus, targets = self._corpus, self._corpus.targets
        inner = GroupShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=self._settings.seed)
        fitted, held_out = (
            fold.train[rows] for rows in next(inner.split(fold.train, groups=corpus.groups[fold.train]))
        )
        tuner, stop, share, elapsed_s = self._tune(part, fitted, held_out)
        scores = tuner.score([self._rows[row] for row in fold.test])
        if not np.isfinite(scores).all():
            raise RuntimeError(f"{part}: expected finite scores, got others. Try a lower --learning-rate.")
        frozen = fit_head(self._pooled[fold.train], targets[fold.train])[0].predict(self._pooled[fold.test])
        result = FoldScores(scores, frozen, stop, share, elapsed_s)
        self._run.finish(part, **dataclasses.asdict(result))
        self._report(part, 1, 1, f"RMSE {rmse(scores, targets[fold.test]):.3f} out of fold")
        return result

    def _tune(
        self, part: str, fitted: TokenRows, held_out: TokenRows | None, stop: float = 1.0, share: float = 1.0
    ) -> tuple[finetune.FineTuner, float, float, float]:
        """Fit all members of the soup and put them together; rows held out, if there are any, set stop and share.

        Returns:
            The tuner with the fitted model, then `stop`, `share` and `elapsed_s` as in FoldScores.
        """
        settings, targets = self._settings, self._corpus.targets
        # The head starts where the frozen encoder's best one is, so that the first steps do not spoil the encoder.
        columns = self._pooled.shape[1] if settings.hidden_states == "all" else self._hidden_size
        head, _ = fit_head(self._pooled[fitted][:, -columns:], targets[fitted])
        rows = [self._rows[row] for row in fitted]
        validation = None if held_out is None else ([self._rows[row] for row in held_out], targets[held_out])
        states, members = [], []
        for member in range(1, settings.soup + 1):
            name = part if settings.soup == 1 else f"{part}.{member}"
            tuner = finetune.FineTuner(Regressor(load_encoder(self._folder), head), settings, self.device, member)
            start = tuner.weights()
            report = partial(self._on_step, name, stop)
            states.append(tuner.fit(rows, targets[fitted], validation, self._run.checkpoint(name), report, stop))
            # Again: an interruption may have come between a checkpoint and its line.
            self._run.log(name, states[-1].history)
            members.append(tuner.weights())
        mean = finetune.mean(members)

        def error(weights: finetune.Weights) -> float:
            assert validation
            tuner.load(weights)
            return tuner.error(*validation)

        share = finetune.best_share(start, mean, error) if validation else share
        tuner.load(finetune.between(start, mean, share))
        stops = [state.best_step / state.n_steps for state in states]
        return tuner, float(np.mean(stops)), share, sum(state.elapsed_s for state in states)

    def _on_step(self, name: str, stop: float, state: State) -> None:
        last = state.history[-1:]
        self._report(name, state.step, max(1, round(stop * state.n_steps)), "".join(map(_note, last)))
        if last and last[0].step == state.step:
            self._run.log(name, state.history)

    @cached_property
    def _pooled(self) -> Floats:
        """The frozen encoder's hidden states, pooled: float32 [rows, columns]."""
        part = "embedding"
        if done := self._run.done(part):
            return done["pooled"]
        encoder = load_encoder(self._folder).to(self.device)  # type: ignore[arg-type]
        n_done = 0

        def report(n_rows: int) -> None:
            nonlocal n_done
            n_done += n_rows
            self._report(part, n_done, len(self._rows), "")

        pooled = batches.apply(Pooled(encoder), self._rows, self.device, report)
        self._run.finish(part, pooled=pooled)
        return pooled


def identity(corpus_digest: str, encoder: str, n_folds: int, seed: int, settings: Settings) -> dict[str, Any]:
    """Return what makes two runs the same."""
    return {
        "data": corpus_digest,
        "encoder": digest(encoder_folder(encoder)),
        "folds": n_folds,
        "fold_seed": seed,
        "torch": torch.__version__,
        **dataclasses.asdict(settings),
    }


def _sizes(folder: Path) -> tuple[int, int]:
    """Return an encoder's number of positions and its hidden size."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config["max_position_embeddings"]), int(config["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: expected the config.json of a BERT model, got: {error}. Add it.") from error


def _note(evaluation: Any) -> str:
    if evaluation.validation_rmse is None:
        return f"RMSE {evaluation.train_rmse:.3f} fitting"
    return f"RMSE {evaluation.train_rmse:.3f} fitting, {evaluation.validation_rmse:.3f} validation"
