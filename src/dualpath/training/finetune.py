"""Fine-tune a regressor: Adam with weight decay on the root mean square error, resumable at any moment."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from dualpath.training import batches
from dualpath.training.artifacts import written_whole
from dualpath.training.encoder import Regressor

CHECKPOINT_S = 120.0
"""Seconds of work that an interruption may cost, about."""
TINY = 1e-8
"""Keeps the root's slope finite where a batch is met exactly."""


@dataclass(frozen=True)
class Settings:
    """How to fine-tune.

    Attributes:
        hidden_states: what the linear layer reads: the "last" hidden layer, or "all" of them.
        epochs: at most; early stopping may end before.
        batch_rows: rows of a step.
        accumulate: parts that a step's rows are computed in, one after the other, to save memory.
        learning_rate: of the encoder, at its highest.
        head_learning_rate: of the linear layer.
        warm_up: share of the steps in which the rates rise; afterwards they fall to 0.
        patience: evaluations in a row without a lower RMSE after which to stop.
        evaluations: per epoch.
        freeze_layers: the lowest layers, which stay as they are. Embeddings always do.
        mixed_precision: compute in half precision where the hardware has it.
        gradient_checkpointing: compute activations twice to save memory.
    """

    hidden_states: str = "last"
    epochs: int = 3
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
        validation_rmse: of the rows held out; None where there are none.
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
        best_step: after which the validation rows' RMSE was lowest; the last one where there are none.
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


Targets = npt.NDArray[np.float32]
Report = Callable[[State], object]


class FineTuner:
    """Fits a regressor's upper layers and head in place."""

    def __init__(self, regressor: Regressor, settings: Settings, device: torch.device) -> None:
        self.regressor = regressor.to(device)
        self._settings, self._device = settings, device
        layers = regressor.encoder.encoder.layer[settings.freeze_layers :]
        # No dropout: it makes a regression from few rows worse, and a CPU slow.
        for module in regressor.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in layers:
            layer.requires_grad_(True)
        regressor.head.requires_grad_(True)
        if settings.gradient_checkpointing:
            regressor.encoder.activation_checkpointing_enable({"use_reentrant": False})
        self._optimizer = torch.optim.AdamW(_groups(regressor, settings), weight_decay=settings.weight_decay)
        dtype = half_precision(device) if settings.mixed_precision else None
        self._autocast: Callable[[], AbstractContextManager[Any]] = lambda: torch.autocast(
            device.type, dtype or torch.bfloat16, enabled=dtype is not None
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self._best: dict[str, torch.Tensor] = {}

    def fit(
        self,
        rows: Sequence[batches.Ids],
        targets: Targets,
        validation: tuple[Sequence[batches.Ids], Targets] | None,
        checkpoint: Path,
        report: Report = lambda state: None,
        stop_after: float = 1.0,
    ) -> State:
        """Fit, going on from the checkpoint where there is one.

        Args:
            rows: token ids, int64 [tokens] each.
            targets: float32 [rows].
            validation: rows that decide when to stop and which step's weights to keep; None keeps the last ones.
            checkpoint: file to keep the state in, replaced whole.
            report: gets the state after each step.
            stop_after: share of the steps to take, with learning rates as if there were all.
        """
        settings = self._settings
        per_epoch = math.ceil(len(rows) / settings.batch_rows)
        state = State(per_epoch * settings.epochs)
        last_step = max(1, round(stop_after * state.n_steps))
        every = max(1, per_epoch // settings.evaluations)
        if checkpoint.is_file():
            state = self._load(checkpoint)
        saved_s = time.monotonic()
        epoch, order = -1, []
        while state.step < last_step and not state.stopped:
            started = time.monotonic()
            if epoch != state.step // per_epoch:
                epoch = state.step // per_epoch
                order = batches.shuffled(rows, settings.batch_rows, (settings.seed, epoch))
            batch = order[state.step % per_epoch]
            state.squared_error += self._step([rows[row] for row in batch], targets[batch], state)
            state.n_rows += len(batch)
            state.step += 1
            evaluate = state.step % every == 0 or state.step == last_step
            if evaluate:
                self._evaluate(state, per_epoch, validation)
            state.elapsed_s += time.monotonic() - started
            if evaluate or time.monotonic() - saved_s > CHECKPOINT_S:
                self._save(state, checkpoint)
                saved_s = time.monotonic()
            report(state)
        self._restore_best()
        return state

    def score(self, rows: Sequence[batches.Ids], exact: bool = True) -> Targets:
        """Score rows: float32 [rows]. `exact` is as they will be served, in float32."""

        def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.regressor(input_ids, attention_mask) if exact else self._scores(input_ids, attention_mask)

        self.regressor.eval()
        return batches.apply(forward, rows, self._device)[:, 0]

    def _scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score with the encoder in half precision; the head's sums would lose too much in it."""
        with self._autocast():
            pooled = self.regressor.pooled(input_ids, attention_mask)
        return cast(torch.Tensor, self.regressor.head(pooled))

    def _step(self, rows: list[batches.Ids], targets: Targets, state: State) -> float:
        """Take a step and return the rows' squared errors, added up."""
        squared_error = 0.0
        self.regressor.train()  # without dropout the same as eval, but that gradient checkpointing asks for it
        parts = np.array_split(np.arange(len(rows)), min(self._settings.accumulate, len(rows)))
        for part in parts:
            inputs = batches.tensors([rows[row] for row in part], self._device)
            expected = torch.from_numpy(targets[part]).to(self._device)
            mean_squared = torch.nn.functional.mse_loss(self._scores(*inputs)[:, 0], expected)
            # The root of all parts' mean is not the mean of their roots: its slope is known when all are through.
            loss = torch.sqrt(mean_squared + TINY) if len(parts) == 1 else mean_squared * (len(part) / len(rows))
            self._scaler.scale(loss).backward()
            squared_error += float(mean_squared.detach()) * len(part)
        factor = rate(state.step, state.n_steps, self._settings.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor
        self._scaler.unscale_(self._optimizer)
        fitted = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        if len(parts) > 1:
            for parameter in (parameter for parameter in fitted if parameter.grad is not None):
                parameter.grad.mul_(0.5 / math.sqrt(squared_error / len(rows) + TINY))
        torch.nn.utils.clip_grad_norm_(fitted, 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return squared_error

    def _evaluate(self, state: State, per_epoch: int, validation: tuple[Sequence[batches.Ids], Targets] | None) -> None:
        rmse = None
        if validation:
            rows, targets = validation
            rmse = float(np.sqrt(np.mean((self.score(rows, exact=False) - targets) ** 2)))
        if rmse is None or rmse < state.best_rmse:
            state.best_step, state.best_rmse = state.step, math.inf if rmse is None else rmse
            self._best = {} if rmse is None else self._trained()
        elif sum(evaluation.step > state.best_step for evaluation in state.history) + 1 >= self._settings.patience:
            state.stopped = True
        state.history.append(
            Evaluation(
                step=state.step,
                epoch=state.step / per_epoch,
                learning_rate=self._settings.learning_rate
                * rate(state.step - 1, state.n_steps, self._settings.warm_up),
                train_rmse=math.sqrt(state.squared_error / state.n_rows),
                validation_rmse=rmse,
                elapsed_s=state.elapsed_s,
            )
        )
        state.squared_error, state.n_rows = 0.0, 0

    def _trained(self) -> dict[str, torch.Tensor]:
        """Copy what is fitted."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.regressor.named_parameters()
            if parameter.requires_grad
        }

    def _restore_best(self) -> None:
        if self._best:
            self.regressor.load_state_dict(self._best, strict=False)

    def _save(self, state: State, checkpoint: Path) -> None:
        with written_whole(checkpoint) as new:
            torch.save(
                {
                    "state": copy.copy(state.__dict__) | {"history": [e.__dict__ for e in state.history]},
                    "weights": self._trained(),
                    "best": self._best,
                    "optimizer": self._optimizer.state_dict(),
                    "scaler": self._scaler.state_dict(),
                },
                new,
            )

    def _load(self, checkpoint: Path) -> State:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.regressor.load_state_dict(saved["weights"], strict=False)
        self._best = saved["best"]
        self._optimizer.load_state_dict(saved["optimizer"])
        self._scaler.load_state_dict(saved["scaler"])
        return State(**saved["state"] | {"history": [Evaluation(**entry) for entry in saved["state"]["history"]]})


def rate(step: int, n_steps: int, warm_up: float) -> float:
    """Return the factor of the learning rates: rising from 0 in the warm-up, then falling to 0 at the end."""
    n_warm_up = max(1, round(warm_up * n_steps))
    return min((step + 1) / n_warm_up, (n_steps - step) / max(1, n_steps - n_warm_up))


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the half precision that the device computes faster in; None where it has none."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None


def _groups(regressor: Regressor, settings: Settings) -> list[dict[str, Any]]:
    """Sort what is fitted by its learning rate; biases and norms are not decayed."""
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in regressor.named_parameters():
        if parameter.requires_grad:
            highest = settings.head_learning_rate if name.startswith("head.") else settings.learning_rate
            groups.setdefault((highest, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": highest, "highest_lr": highest} | ({} if decays else {"weight_decay": 0.0})
        for (highest, decays), parameters in sorted(groups.items(), key=lambda entry: entry[0])
    ]
