"""Fine-tune a regressor: Adam with weight decay on the root mean square error, resumable at any moment.

The mean of several fits that began at the same weights, and a part of the way back to these, fit the rows less than a
single fit's weights and others better: model soups (Wortsman et al., https://arxiv.org/abs/2203.05482) and WiSE-FT
(Wortsman et al., https://arxiv.org/abs/2109.01903).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from dualpath.training.bert import batches
from dualpath.training.bert.regressor import Regressor
from dualpath.training.bert.settings import Evaluation, Settings, State
from dualpath.training.runs import written_whole

CHECKPOINT_S = 120.0
"""Seconds of work that an interruption may cost, about."""
TINY = 1e-8
"""Keeps the root's slope finite if a batch is met exactly."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the way from the weights at the start to the fitted ones: what `best_share` tries."""

Weights = dict[str, torch.Tensor]
"""By a parameter's name, of what is fitted."""
Targets = npt.NDArray[np.float32]
StateReport = Callable[[State], object]
Validation = tuple[Sequence[batches.Ids], Targets] | None
"""Rows that are not fitted on, and their targets."""


class FineTuner:
    """Fits a regressor's upper layers and head in place."""

    def __init__(self, regressor: Regressor, settings: Settings, device: torch.device, member: int = 1) -> None:
        """Prepare to fit; each member of a soup gets the rows in an order of its own."""
        self.regressor = regressor.to(device)
        self._settings, self._device = settings, device
        self._order = settings.seed, member
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
        self._dtype = half_precision(device) if settings.mixed_precision else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)
        self._best: Weights = {}

    def fit(
        self,
        rows: Sequence[batches.Ids],
        targets: Targets,
        validation: Validation,
        checkpoint: Path,
        report: StateReport = lambda state: None,
        stop_after: float = 1.0,
    ) -> State:
        """Fit, going on from the checkpoint if there is one.

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
                order = batches.shuffled(rows, settings.batch_rows, (*self._order, epoch))
            batch = order[state.step % per_epoch]
            with _denormals_flushed():
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
        if self._best:
            self.load(self._best)
        return state

    def score(self, rows: Sequence[batches.Ids], exact: bool = True) -> Targets:
        """Score rows: float32 [rows]. `exact` is as they will be served, in float32."""
        self.regressor.eval()
        return batches.apply(self.regressor if exact else self._scores, rows, self._device)[:, 0]

    def error(self, rows: Sequence[batches.Ids], targets: Targets) -> float:
        """Return the RMSE of rows, computed in the precision of fitting."""
        return float(np.sqrt(np.mean((self.score(rows, exact=False) - targets) ** 2)))

    def weights(self) -> Weights:
        """Copy what is fitted, to the CPU."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.regressor.named_parameters()
            if parameter.requires_grad
        }

    def load(self, weights: Weights) -> None:
        """Take weights that `weights` gave."""
        self.regressor.load_state_dict(weights, strict=False)

    def _scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score with the encoder in half precision; the head's sums would lose too much in it."""
        with torch.autocast(self._device.type, self._dtype or torch.bfloat16, enabled=self._dtype is not None):
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

    def _evaluate(self, state: State, per_epoch: int, validation: Validation) -> None:
        rmse = self.error(*validation) if validation else None
        if rmse is None or rmse < state.best_rmse:
            state.best_step, state.best_rmse = state.step, math.inf if rmse is None else rmse
            self._best = {} if rmse is None else self.weights()
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

    def _save(self, state: State, checkpoint: Path) -> None:
        with written_whole(checkpoint) as new:
            torch.save(
                {
                    "state": dataclasses.asdict(state),
                    "weights": self.weights(),
                    "best": self._best,
                    "optimizer": self._optimizer.state_dict(),
                    "scaler": self._scaler.state_dict(),
                },
                new,
            )

    def _load(self, checkpoint: Path) -> State:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.load(saved["weights"])
        self._best = saved["best"]
        self._optimizer.load_state_dict(saved["optimizer"])
        self._scaler.load_state_dict(saved["scaler"])
        return State(**saved["state"] | {"history": [Evaluation(**entry) for entry in saved["state"]["history"]]})


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Take numbers below float32's normal ones, about 1e-38, as 0.

    MiniLM has dead columns of about 1e-33; what a step makes of them is so small, and halves a CPU's speed.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def rate(step: int, n_steps: int, warm_up: float) -> float:
    """Return the factor of the learning rates: rising from 0 in the warm-up, then falling to 0 at the end."""
    n_warm_up = max(1, round(warm_up * n_steps))
    return min((step + 1) / n_warm_up, (n_steps - step) / max(1, n_steps - n_warm_up))


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the half precision that the device computes faster in; None if it has none."""
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


def mean(weights: Sequence[Weights]) -> Weights:
    """Return the mean of several fits' weights."""
    return {name: torch.stack([of_one[name] for of_one in weights]).mean(dim=0) for name in weights[0]}


def between(start: Weights, fitted: Weights, share: float) -> Weights:
    """Return the weights at a share of the way: 0 -> start, 1 -> fitted."""
    return {name: torch.lerp(start[name], fitted[name], share) for name in fitted}


def best_share(start: Weights, fitted: Weights, error: Callable[[Weights], float]) -> float:
    """Return the one of SHARES with the smallest error."""
    return min(SHARES, key=lambda share: error(between(start, fitted, share)))
