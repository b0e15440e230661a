"""Ratios of paired turns, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from dualpath.compare.load import Turn


@dataclass(frozen=True)
class Ratio:
    """A ratio and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} x [{self.low:.3g}, {self.high:.3g}]"


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Return the geometric mean of a[i] / b[i], measured next to each other, with its interval."""
    logs = np.log(np.asarray(a) / np.asarray(b))
    if len(logs) < 2 or np.ptp(logs) == 0:
        return Ratio(*[float(np.exp(logs.mean()))] * 3)
    interval = bootstrap((logs,), np.mean, n_resamples=2000, rng=0, method="percentile").confidence_interval
    return Ratio(float(np.exp(logs.mean())), float(np.exp(interval.low)), float(np.exp(interval.high)))


def throughput(turns: Sequence[Turn]) -> list[float]:
    """Rows per second of each turn."""
    return [turn.rows_per_s for turn in turns]


def latency(turns: Sequence[Turn], percentile: float, group: str | None = None) -> list[float]:
    """A percentile of each turn's latencies in ms, of one group or of all."""
    pick: Callable[[Turn], list[float]] = lambda t: t.all_ms() if group is None else t.latencies_ms[group]  # noqa: E731
    return [float(np.percentile(pick(turn), percentile)) for turn in turns]
