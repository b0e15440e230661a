"""Train the BERT regressor: folds, frozen head, fine-tuning, the final fit, TorchScript."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import GroupShuffleSplit

from dualpath.errors import UserError
from dualpath.readability.contract import MAX_TOKENS
from dualpath.readability.tokens import TokenEncoder
from dualpath.training import batches
from dualpath.training.blend import rmse
from dualpath.training.corpus import Corpus
from dualpath.training.encoder import Regressor, load_encoder, pool
from dualpath.training.encoders import digest, encoder_folder, write_tokenizer
from dualpath.training.export import export_regressor
from dualpath.training.finetune import FineTuner, Settings, State
from dualpath.training.folds import Fold
from dualpath.training.head import fit_head
from dualpath.training.runs import Report, Run

TOKENIZER = "tokenizer.json"
VALIDATION_SHARE = 0.1
"""Of a fold's fitting rows: they say when to stop, so that the fold's own rows are only ever scored."""
FINAL = "final"
DONE_BEFORE = "done before"
"""The note of a part that an earlier run has finished."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FoldScores:
    """What one fold gave.

    Attributes:
        scores: float32 [the fold's rows], by the fine-tuned model.
        frozen: float32 [the fold's rows], by a head on the encoder as it was.
        stop: share of the steps after which the fold's model was best.
        elapsed_s: of the fold's fitting.
    """

    scores: Floats
    frozen: Floats
    stop: float
    elapsed_s: float


class BertTraining:
    """Trains one encoder on one corpus; what is finished is kept in the run's folder and not done again."""

    def __init__(self, corpus: Corpus, encoder: str, settings: Settings, run: Run, report: Report) -> None:
        self._corpus, self._settings, self._run, self._report = corpus, settings, run, report
        self._folder = encoder_folder(encoder)
        if (positions := _positions(self._folder)) < MAX_TOKENS:
            raise UserError(f"--encoder {encoder}: expected {MAX_TOKENS} positions, found {positions}.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # MiniLM has dead columns (about 1e-33). What fitting makes of them is denormal, and halves a CPU's speed. Threads
        # inherit this from the one that starts them, so it comes before the first computation.
        torch.set_flush_denormal(True)
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
                f"found {self._corpus.n_groups} in all. Add rated excerpts."
            )
        return [self._fold(f"fold-{number}", fold) for number, fold in enumerate(folds, start=1)]

    def fit(self, stop: float) -> tuple[Regressor, float]:
        """Fit on all rows, up to the share `stop` of the steps; return the regressor, on the CPU, and the seconds."""
        everything = np.arange(len(self._rows))
        tuner, state = self._tune(FINAL, everything, None, stop)
        regressor = tuner.regressor.cpu().eval()
        regressor.requires_grad_(False)
        return regressor, state.elapsed_s

    def write(self, regressor: Regressor, folder: Path, precision: str) -> None:
        """Write model.pt, held against the eager model, and tokenizer.json into a folder."""
        torch.nn.Module.to(regressor.encoder, getattr(torch, precision))
        export_regressor(regressor, folder / "model.pt")
        write_tokenizer(self._folder, folder / TOKENIZER)

    def _fold(self, part: str, fold: Fold) -> FoldScores:
        if done := self._run.done(part):
            self._report(part, 1, 1, DONE_BEFORE)
            return FoldScores(done["scores"], done["frozen"], float(done["stop"]), float(done["elapsed_s"]))
        corpus, targets = self._corpus, self._corpus.targets
        inner = GroupShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=self._settings.seed)
        fitted, held_out = (
            fold.train[rows] for rows in next(inner.split(fold.train, groups=corpus.groups[fold.train]))
        )
        tuner, state = self._tune(part, fitted, held_out)
        scores = tuner.score([self._rows[row] for row in fold.test])
        if not np.isfinite(scores).all():
            raise RuntimeError(f"{part}: expected finite scores, got others. Try a lower --learning-rate.")
        frozen = fit_head(self._pooled()[fold.train], targets[fold.train])[0].predict(self._pooled()[fold.test])
        result = FoldScores(scores, frozen, state.best_step / state.n_steps, state.elapsed_s)
        self._run.finish(part, **dataclasses.asdict(result))
        note = f"RMSE {rmse(scores, targets[fold.test]):.3f} out of fold"
        self._report(part, state.step, state.step, note)  # all of it, also where it stopped early
        return result

    def _tune(
        self, part: str, fitted: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64] | None, stop: float = 1.0
    ) -> tuple[FineTuner, State]:
        targets = self._corpus.targets
        encoder = load_encoder(self._folder)
        # The head starts where the frozen encoder's best one is, so that the first steps do not spoil the encoder.
        columns = encoder.config.hidden_size if self._settings.hidden_states == "last" else 0
        head, _ = fit_head(self._pooled()[fitted][:, -columns:], targets[fitted])
        tuner = FineTuner(Regressor(encoder, head), self._settings, self.device)

        def report(state: State) -> None:
            last = state.history[-1:]
            self._report(part, state.step, max(1, round(stop * state.n_steps)), "".join(map(_note, last)))
            if last and last[0].step == state.step:
                self._run.log(part, state.history)

        state = tuner.fit(
            [self._rows[row] for row in fitted],
            targets[fitted],
            None if held_out is None else ([self._rows[row] for row in held_out], targets[held_out]),
            self._run.checkpoint(part),
            report,
            stop,
        )
        self._run.log(part, state.history)  # an interruption may have come between a checkpoint and its line
        return tuner, state

    def _pooled(self) -> Floats:
        """Return the frozen encoder's hidden states, pooled: float32 [rows, columns]."""
        if not hasattr(self, "_pooled_rows"):
            self._pooled_rows = self._embed()
        return self._pooled_rows

    def _embed(self) -> Floats:
        part = "embedding"
        if done := self._run.done(part):
            return done["pooled"]
        encoder = load_encoder(self._folder).to(self.device)  # type: ignore[arg-type]
        n_done = 0

        def report(n_rows: int) -> None:
            nonlocal n_done
            n_done += n_rows
            self._report(part, n_done, len(self._rows), "")

        pooled = batches.apply(lambda *inputs: pool(encoder, *inputs), self._rows, self.device, report)
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


def _positions(folder: Path) -> int:
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: expected the config.json of a BERT model, found: {error}.") from error


def _note(evaluation: Any) -> str:
    if evaluation.validation_rmse is None:
        return f"RMSE {evaluation.train_rmse:.3f} fitting"
    return f"RMSE {evaluation.train_rmse:.3f} fitting, {evaluation.validation_rmse:.3f} validation"
