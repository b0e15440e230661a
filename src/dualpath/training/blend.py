"""The blend of two models' scores over every weight: its error, the best weight, and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.training.corpus import Fold

Floats = npt.NDArray[np.float32]

WEIGHTS = tuple(round(step / 100, 2) for step in range(101))
"""Weights of BERT to choose from: 0, 0.01, ... 1."""

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "axes.axisbelow": True,
    "axes.edgecolor": "#c9d0d8",
    "text.color": "#1b2026",
}
LINE, BEST, MUTED = "#0072b2", "#d55e00", "#57616c"


@dataclass(frozen=True)
class Blend:
    """Root mean squared errors of `weight * bert + (1 - weight) * forest`.

    Attributes:
        rmse: by weight, for each of WEIGHTS.
        nested_rmse: each fold blended with the weight that is best on the others, so that no row takes part in the
            choice of its own weight; None if no folds were given.
    """

    rmse: tuple[float, ...]
    nested_rmse: float | None = None

    @property
    def best_weight(self) -> float:
        """The weight of the smallest error; of equals, the smallest."""
        return WEIGHTS[int(np.argmin(self.rmse))]

    @property
    def best_rmse(self) -> float:
        """The smallest error, on the very rows that the best weight is chosen on."""
        return min(self.rmse)

    @property
    def bert_rmse(self) -> float:
        """BERT's own error: weight 1."""
        return self.rmse[-1]

    @property
    def forest_rmse(self) -> float:
        """The forest's own error: weight 0."""
        return self.rmse[0]


def rmse(scores: Floats, targets: Floats) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((scores.astype(np.float64) - targets) ** 2)))


def blend(bert: Floats, forest: Floats, targets: Floats, folds: Sequence[Fold] = ()) -> Blend:
    """Measure the blend of two models' scores by weight.

    Args:
        bert, forest: out-of-fold scores, float32 [rows], finite.
        targets: float32 [rows].
        folds: those of the scores, for the nested estimate.
    Raises:
        ValueError: scores are not finite: some rows were not scored.
    """
    for name, scores in (("bert", bert), ("forest", forest)):
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{name}: expected finite scores of all rows, got {int((~np.isfinite(scores)).sum())} others."
            )
    weights = np.array(WEIGHTS)[:, None]
    # [weights, rows]: 101 times some thousand rows.
    squares = (weights * bert.astype(np.float64) + (1 - weights) * forest.astype(np.float64) - targets) ** 2
    nested = None
    if folds:
        best = [(fold, int(np.argmin(squares[:, fold.train].mean(axis=1)))) for fold in folds]
        nested = float(np.sqrt(np.mean(np.concatenate([squares[weight, fold.test] for fold, weight in best]))))
    return Blend(tuple(np.sqrt(squares.mean(axis=1)).tolist()), nested)


def plot(blend: Blend, path: Path) -> None:
    """Draw the error by weight, the best weight marked, as a PNG file."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(_STYLE):
        figure = Figure((6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(WEIGHTS, blend.rmse, color=LINE, linewidth=1.8)
        axes.plot((0, 1), (blend.forest_rmse, blend.bert_rmse), "o", color=LINE, clip_on=False)
        axes.plot(blend.best_weight, blend.best_rmse, "o", color=BEST, clip_on=False)
        beside: dict[str, Any] = {"textcoords": "offset points", "color": LINE}
        axes.annotate(f"forest {blend.forest_rmse:.3f}", (0, blend.forest_rmse), xytext=(4, 7), **beside)
        axes.annotate(f"BERT {blend.bert_rmse:.3f}", (1, blend.bert_rmse), xytext=(8, 0), va="center", **beside)
        low, high = min(blend.rmse), max(blend.rmse)
        room = max(high - low, 0.01)
        axes.set_xlim(0, 1)
        axes.set_ylim(low - 0.15 * room, high + 0.12 * room)
        axes.set_xlabel("weight of BERT", color=MUTED)
        axes.set_ylabel("RMSE, out of fold", color=MUTED)
        axes.set_title("Error of the blend by weight")
        axes.set_title(f"best {blend.best_rmse:.3f} at {blend.best_weight:.2f}", loc="right", size=9, color=BEST)
        figure.savefig(path, dpi=160, format="png", metadata={"Software": None})
