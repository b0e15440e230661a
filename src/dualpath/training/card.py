"""The model card of a training run: what it found, and a page that says what that means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dualpath.errors import UserError
from dualpath.repository.facts import Facts
from dualpath.training.blend import WEIGHTS, Blend

PAGE_FILE = "model-card.md"
ENGINE_NAMES = {"sklearn": "scikit-learn", "cuml": "cuML"}


@dataclass(frozen=True)
class Card:
    """What a training run did and found. Errors are root mean squared, out of fold; None if it was not measured.

    Attributes:
        data_digest: `Corpus.digest`.
        target_deviation: the target's standard deviation, which is the error of always saying the mean.
        date: when the run ended, ISO 8601 in UTC.
        elapsed_s: of fitting, all interruptions left out.
        encoder: what BERT was fine-tuned from; None if BERT was not trained.
        engine: what fitted the forest; None if it was not trained.
        kept: which BERT was published, "fine-tuned" or "frozen".
        head_rmse: BERT with a frozen encoder, on the same folds.
        bert_rmse: the BERT that was published.
        tuned_rmse: BERT fine-tuned; None in a card from before there was a choice, which is of a fine-tuned one.
        blend: of both models' scores by weight.
    """

    data: str
    data_digest: str
    n_rows: int
    n_groups: int
    n_folds: int
    seed: int
    target_deviation: float
    versions: dict[str, str]
    date: str
    elapsed_s: float
    encoder: str | None = None
    engine: str | None = None
    kept: str | None = None
    head_rmse: float | None = None
    tuned_rmse: float | None = None
    bert_rmse: float | None = None
    forest_rmse: float | None = None
    blend: Blend | None = None

    @property
    def line(self) -> str:
        """Say it in one line: the data, and each model's error."""
        errors = [
            f"{name} {error:.3f}" for name, error in (("bert", self.bert_rmse), ("forest", self.forest_rmse)) if error
        ]
        if self.blend:
            errors.append(f"blend {self.blend.best_rmse:.3f} at {self.blend.best_weight:.2f}")
        return f"{self.data}, {self.n_rows:,} rows, {self.n_folds} folds: RMSE {', '.join(errors) or 'not measured'}"

    @classmethod
    def of(cls, facts: Facts) -> Card:
        """Return the card of a version that was trained.

        Raises:
            UserError: it was not, or its facts are no card.
        """
        try:
            found = {"versions": facts.versions, **(facts.training or {})}
            if (blend := found["blend"]) is not None:
                by_weight = blend["rmse_by_weight"]
                found["blend"] = Blend(tuple(by_weight[f"{weight:.2f}"] for weight in WEIGHTS), blend["nested_rmse"])
            return cls(**found)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"a version's training: expected a model card, got: {error}. Train again.") from error

    def facts(self, encoder: str | None, precision: str | None) -> Facts:
        """Return the facts of a version that this run made: BERT's with its encoder and precision."""
        training = self.as_json()
        return Facts(encoder, precision, versions=training.pop("versions"), training=training)

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON."""
        facts = dataclasses.asdict(self)
        if self.blend:
            facts["blend"] = {
                "best_weight": self.blend.best_weight,
                "best_rmse": self.blend.best_rmse,
                "nested_rmse": self.blend.nested_rmse,
                "rmse_by_weight": {f"{w:.2f}": error for w, error in zip(WEIGHTS, self.blend.rmse, strict=True)},
            }
        return facts

    def page(self) -> str:
        """Return the card as Markdown."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from ("# Model card", "")
        if self.encoder:
            how = "frozen, with a linear layer on top" if self.kept == "frozen" else "fine-tuned to one value"
            yield f"- `bert-large`: {self.encoder}, {how}."
        if self.engine:
            yield f"- `cuml`: a random forest on 207 counted features, fitted by {ENGINE_NAMES[self.engine]}."
        yield f"- Data: {self.data}, {self.n_rows:,} excerpts of {self.n_groups:,} sources, SHA-256"
        yield f"  `{self.data_digest}`."
        yield f"- Trained until {self.date} with seed {self.seed}; fitting took {_duration(self.elapsed_s)}."
        yield from ("", "A score is an easiness on the scale of the data's targets: higher is easier to read.")
        yield from ("", "## Quality", "", f"Root mean squared error in {self.n_folds}-fold cross-validation:", "")
        yield from ("| | RMSE |", "| --- | --- |")
        for name, error in self.errors():
            if error is not None:
                yield f"| {name} | {error:.3f} |"
        yield ""
        yield "Excerpts of one source (a common author or URL) are never in two folds, and each is scored by models"
        yield "fitted on the other folds. The models served are fitted on all excerpts."
        if self.blend and self.blend.nested_rmse is not None:
            yield "The best weight is chosen on the rows that it is measured on, which flatters it; for the last figure"
            yield "each fold's weight is chosen on the other folds."
        yield from ("", "## Limits", "")
        yield "- Excerpts unlike those of the data in length, kind or language get a score too, and it means little."
        yield "- The data's licence holds for what is computed from it."
        yield from ("", "## Made with", "", ", ".join(f"{name} {version}" for name, version in self.versions.items()))

    def errors(self) -> Iterator[tuple[str, float | None]]:
        """Give each error with its name as Markdown."""
        yield "always the mean (the target's standard deviation)", self.target_deviation
        yield "`cuml`, the forest", self.forest_rmse
        mark = {self.kept: "; published"}
        yield f"`bert-large`, frozen, a linear layer on top{mark.get('frozen', '')}", self.head_rmse
        yield f"`bert-large`, fine-tuned{mark.get('fine-tuned', '')}", self.tuned_rmse or self.bert_rmse
        if self.blend:
            yield "both, weight 0.5", self.blend.rmse[len(WEIGHTS) // 2]
            yield f"both, best weight ({self.blend.best_weight:.2f})", self.blend.best_rmse
            yield "both, weight chosen on other folds", self.blend.nested_rmse


def _duration(seconds: float) -> str:
    """Say a duration: 45 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
