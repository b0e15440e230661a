"""How to fine-tune BERT."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to fine-tune.

    Attributes:
        hidden_states: what the linear layer reads: the "last" hidden layer, or "all" of them.
        soup: fits from the same start, each with the rows in another order, whose weights are averaged.
        epochs: of each, at most; early stopping may end before.
        batch_rows: rows of a step.
        accumulate: parts that a step's rows are computed in, one after the other, to save memory.
        learning_rate: of the encoder, at its highest.
        head_learning_rate: of the linear layer.
        warm_up: share of the steps in which the rates rise; afterwards they fall to 0.
        patience: evaluations in a row without a lower RMSE after which to stop.
        evaluations: per epoch.
        freeze_layers: the lowest layers, which stay as they are. Embeddings always do.
        mixed_precision: compute in half precision if the hardware has it.
        gradient_checkpointing: compute activations twice to save memory.
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
