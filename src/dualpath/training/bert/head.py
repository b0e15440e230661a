"""The regression head: one linear layer on pooled hidden states, fitted by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.extras import needs

HEAD_FILE = "bert_head.npz"
PENALTIES = np.logspace(0, 3, 7)
"""Ridge penalties to choose from: 1, 3.16, 10, ... 1,000."""


@dataclass(frozen=True)
class Head:
    """`pooled @ weight + bias`, with weight float32 [columns]."""

    weight: npt.NDArray[np.float32]
    bias: float

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["weight"], float(arrays["bias"]))

    def save(self, path: Path) -> None:
        """Write a compressed .npz file; equal heads give equal bytes."""
        np.savez_compressed(path, weight=self.weight, bias=np.float32(self.bias))

    def predict(self, pooled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Score pooled hidden states: float32 [rows, columns] -> float32 [rows]."""
        return pooled @ self.weight + np.float32(self.bias)


def fit_head(pooled: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> tuple[Head, float]:
    """Fit a head by ridge regression.

    Args:
        pooled: float32 [rows, columns].
        targets: float32 [rows].
    Returns:
        The head, and the penalty that leave-one-out cross-validation on these rows chose.
    """
    with needs("models"):
        from sklearn.linear_model import RidgeCV

    # Not standardised: layer norms already put the columns on one scale, and MiniLM has dead columns (about 1e-33)
    # whose weights would become huge.
    ridge = RidgeCV(PENALTIES).fit(pooled.astype(np.float64), targets.astype(np.float64))
    return Head(ridge.coef_.astype(np.float32), float(ridge.intercept_)), float(ridge.alpha_)
