"""How to fine-tune BERT, and how far that has come."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How to fine-tune; `dualpath train bert --help` says what each field is.

    `mixed_precision` counts only if the hardware has a half precision that is faster.
    """

    hidden_states: str = "all"
    soup: int = 3
    epochs: int = 1
    batch_rows: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warm_up: float = 0.1
    patience: int = 3
    evaluations: int = 2
    freeze_layers: int = 0
    mixed_precision: bool = True
    gradient_checkpointing: bool = False
    seed: int = 0


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
