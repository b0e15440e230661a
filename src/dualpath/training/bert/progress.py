"""How far a fit has come, and what was found on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """What was found after `step` steps.

    Attributes:
        learning_rate: of the encoder, in the last step.
        train_rmse: of the rows fitted on since the last evaluation.
        validation_rmse: of the rows held out; None if there are none.
        elapsed_s: of fitting so far, that of interrupted runs included.
    """

    step: int
    epoch: float
    learning_rate: float
    train_rmse: float
    validation_rmse: float | None
    elapsed_s: float


@dataclass
class State:
    """Where a fit is.

    Attributes:
        step: steps done of `n_steps`.
        best_step: after which the validation rows' RMSE was lowest; the last one if there are none.
        elapsed_s: time spent, that of interrupted runs included.
    """

    n_steps: int
    step: int = 0
    best_step: int = 0
    best_rmse: float = math.inf
    squared_error: float = 0.0
    n_rows: int = 0
    elapsed_s: float = 0.0
    stopped: bool = False
    history: list[Evaluation] = field(default_factory=list)
