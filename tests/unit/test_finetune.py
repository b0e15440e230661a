"""Fine-tuning: it learns, stops early, and goes on where it was interrupted as if it had not been."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_bert import rows_with_targets, tiny_regressor

from dualpath.training.bert import batches, finetune
from dualpath.training.bert.finetune import FineTuner, rate
from dualpath.training.bert.regressor import Regressor
from dualpath.training.bert.settings import Settings, State

CPU = torch.device("cpu")
ROUNDING = 1e-5
"""Of weights after 18 steps of up to 1e-2 each, whose sums were rounded in another order."""
SETTINGS = Settings(
    epochs=3, batch_rows=8, learning_rate=1e-3, head_learning_rate=1e-2, mixed_precision=False, patience=99
)


def tune(tmp_path: Path, settings: Settings = SETTINGS, regressor: Regressor | None = None, **options):
    tmp_path.mkdir(exist_ok=True)
    rows, targets = rows_with_targets(64)
    tuner = FineTuner(regressor or tiny_regressor(), settings, CPU)
    state = tuner.fit(rows[:48], targets[:48], (rows[48:], targets[48:]), tmp_path / "fit.pt", **options)
    return tuner, state


def weights(regressor: Regressor) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in regressor.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_fitting_lowers_the_error_on_rows_that_were_not_fitted(tmp_path):
    rows, targets = rows_with_targets(300)
    tuner = FineTuner(tiny_regressor(), replace(SETTINGS, epochs=12), CPU)
    state = tuner.fit(rows[:240], targets[:240], (rows[240:], targets[240:]), tmp_path / "fit.pt")
    rmse = float(np.sqrt(np.mean((tuner.score(rows[240:]) - targets[240:]) ** 2)))
    assert rmse < 0.7 * targets[240:].std()
    assert rmse == pytest.approx(state.best_rmse, abs=1e-6)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(tmp_path):
    one, _ = tune(tmp_path / "1")
    other, _ = tune(tmp_path / "2")
    assert_equal(weights(one.regressor), weights(other.regressor))
    third, _ = tune(tmp_path / "3", replace(SETTINGS, seed=1))
    assert not torch.equal(third.regressor.head.weight, one.regressor.head.weight)


def test_members_of_a_soup_differ(tmp_path):
    rows, targets = rows_with_targets(48)
    heads = []
    for member in (1, 2):
        tuner = FineTuner(tiny_regressor(), SETTINGS, CPU, member)
        tuner.fit(rows, targets, None, tmp_path / f"{member}.pt")
        heads.append(tuner.weights()["head.weight"])
    assert not torch.equal(*heads)


@pytest.mark.parametrize("at", [1, 7, 9, 17])
def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, at):
    whole, whole_state = tune(tmp_path / "whole")
    monkeypatch.setattr(finetune, "CHECKPOINT_S", 0.0)

    def interrupt(state: State) -> None:
        if state.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "parts", report=interrupt)
    steps: list[int] = []
    parts, parts_state = tune(tmp_path / "parts", report=lambda state: steps.append(state.step))
    assert steps[0] == at + 1
    assert_equal(weights(whole.regressor), weights(parts.regressor))
    assert [e.validation_rmse for e in parts_state.history] == [e.validation_rmse for e in whole_state.history]
    assert [e.train_rmse for e in parts_state.history] == [e.train_rmse for e in whole_state.history]


def test_a_finished_fit_is_not_repeated(tmp_path):
    first, _ = tune(tmp_path)
    steps: list[int] = []
    second, _ = tune(tmp_path, report=lambda state: steps.append(state.step))
    assert steps == []
    assert_equal(weights(first.regressor), weights(second.regressor))


def test_a_checkpoint_is_whole_when_writing_the_next_one_fails(tmp_path, monkeypatch):
    tune(tmp_path, stop_after=0.5)
    before = (tmp_path / "fit.pt").read_bytes()

    def fail(saved, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        tune(tmp_path)
    assert (tmp_path / "fit.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit.pt"]


def test_early_stopping_keeps_the_weights_of_the_best_evaluation(tmp_path):
    settings = replace(SETTINGS, epochs=40, learning_rate=3e-2, patience=2)  # so fast that it gets worse again
    tuner, state = tune(tmp_path, settings)
    found = [evaluation.validation_rmse for evaluation in state.history]
    assert state.stopped
    assert state.step < state.n_steps
    assert len(found) == found.index(min(found)) + 1 + settings.patience
    rows, targets = rows_with_targets(64)
    rmse = float(np.sqrt(np.mean((tuner.score(rows[48:]) - targets[48:]) ** 2)))
    assert rmse == pytest.approx(min(found), abs=1e-6)


def test_embeddings_and_frozen_layers_stay_as_they_were(tmp_path):
    before = weights(tiny_regressor())
    tuner, _ = tune(tmp_path, replace(SETTINGS, freeze_layers=1))
    after = weights(tuner.regressor)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("encoder.encoder.layer.1.", "head.")) for name in changed)
    assert {"head.weight", "encoder.encoder.layer.1.output.dense.weight"} <= changed


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_steps_in_parts_move_the_weights_as_whole_ones_do(tmp_path, accumulate):
    """Parts that err differently, and of unequal size."""
    whole, whole_state = tune(tmp_path / "whole")
    parts, parts_state = tune(tmp_path / "parts", replace(SETTINGS, accumulate=accumulate))
    assert parts_state.best_rmse == pytest.approx(whole_state.best_rmse, rel=ROUNDING)
    for name, one in weights(whole.regressor).items():
        torch.testing.assert_close(weights(parts.regressor)[name], one, rtol=0, atol=ROUNDING, msg=name)


def test_the_log_has_the_encoders_rate_also_where_the_heads_is_lower(tmp_path):
    settings = replace(SETTINGS, learning_rate=1e-3, head_learning_rate=1e-4)
    _, state = tune(tmp_path, settings)
    found = [evaluation.learning_rate for evaluation in state.history]
    assert found == [1e-3 * rate(e.step - 1, state.n_steps, settings.warm_up) for e in state.history]


def test_without_validation_rows_the_last_weights_are_kept_after_the_share_asked_for(tmp_path):
    rows, targets = rows_with_targets(64)
    tuner = FineTuner(tiny_regressor(), SETTINGS, CPU)
    state = tuner.fit(rows, targets, None, tmp_path / "fit.pt", stop_after=0.5)
    assert state.step == state.n_steps / 2
    assert state.history[-1].validation_rmse is None
    assert not state.stopped


def test_half_precision_fits_as_float32_does_within_its_rounding(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "half_precision", lambda device: torch.bfloat16)
    half, half_state = tune(tmp_path / "half", replace(SETTINGS, mixed_precision=True))
    full, full_state = tune(tmp_path / "full")
    assert half_state.best_rmse == pytest.approx(full_state.best_rmse, abs=0.05)
    assert half.regressor.head.weight.dtype is full.regressor.head.weight.dtype is torch.float32
    assert not torch.equal(half.regressor.head.weight, full.regressor.head.weight)


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_rates_rise_to_the_highest_once_and_then_fall(n_steps, warm_up):
    rates = [rate(step, n_steps, warm_up) for step in range(n_steps)]
    top = int(np.argmax(rates))
    assert min(rates) > 0
    assert max(rates) <= 1
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(st.integers(1, 400), st.integers(1, 32), st.integers(0, 9))
def test_an_epochs_batches_hold_each_row_once(n_rows, batch_rows, seed):
    rows, _ = rows_with_targets(n_rows)
    order = batches.shuffled(rows, batch_rows, (seed, 0))
    assert sorted(np.concatenate(order)) == list(range(n_rows))
    assert max(map(len, order)) <= batch_rows
    again = batches.shuffled(rows, batch_rows, (seed, 0))
    assert all(np.array_equal(one, other) for one, other in zip(order, again, strict=True))


def test_batches_hold_rows_of_like_length():
    rows, _ = rows_with_targets(512)
    order = batches.shuffled(rows, 16, (0, 0))
    spread = np.mean([np.ptp([len(rows[row]) for row in batch]) for batch in order])
    assert spread < 3 < np.ptp([len(row) for row in rows[:16]])


def test_apply_keeps_the_order_of_rows_of_any_length():
    rows, _ = rows_with_targets(40)
    sums = batches.apply(lambda ids, mask: (ids * mask).sum(dim=1, keepdim=True), rows)
    assert sums[:, 0].tolist() == [float(row.sum()) for row in rows]
