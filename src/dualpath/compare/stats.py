"""Ratios of paired turns, with an interval, and distributions of latencies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, norm, t

from dualpath.compare.load import Turn

N_RESAMPLES = 2000
GRID = 4000
"""Of the ranks of a distribution, so that a percentile is exact to 0.025."""
MIN_PAIRS = 4
"""Resampled, fewer do not vary enough: three hold 95 % only in three of four cases."""


@dataclass(frozen=True)
class Ratio:
    """A ratio and its 95 % bootstrap interval, which is 0 to infinity if there are too few pairs to tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} x [{self.low:.3g}, {self.high:.3g}]"


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Return the geometric mean of a[i] / b[i], measured next to each other, with its interval."""
    logs = np.log(np.asarray(a) / np.asarray(b))
    return Ratio(float(np.exp(logs.mean())), *map(float, np.exp(_interval(logs, np.mean, vectorized=True))))


def percentile_ratio(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], percentile: float) -> Ratio:
    """Return the ratio of a percentile of all turns' values together, with the interval that resampled rounds give.

    One turn holds too little of a tail, and its median may lie between two kinds of requests.

    Args:
        a: values by turn, at least one in each; a[i] was measured next to b[i].
    """
    quantile_a, quantile_b = (_weighted_quantile(turns, percentile / 100) for turns in (a, b))

    def statistic(rounds: npt.NDArray[np.int64]) -> float:
        counts = np.bincount(rounds, minlength=len(a))
        return float(np.log(quantile_a(counts) / quantile_b(counts)))

    rounds = np.arange(len(a))
    low, high = np.exp(_interval(rounds, statistic, vectorized=False))
    return Ratio(float(np.exp(statistic(rounds))), float(low), float(high))


def throughput(turns: Sequence[Turn]) -> list[float]:
    """Rows per second of each turn; of one without an answer, as if half a row had been answered."""
    return [max(turn.n_rows, 0.5) / turn.elapsed_s for turn in turns]


def distribution(values: Sequence[float], percentiles: Sequence[float]) -> dict[float, float]:
    """Return percentiles, each a value that was measured; none of nothing."""
    if not len(values):
        return {}
    return dict(zip(percentiles, np.percentile(values, percentiles, method="inverted_cdf").tolist(), strict=True))


def _interval(data: npt.NDArray[np.generic], statistic: Callable[..., float], vectorized: bool) -> tuple[float, float]:
    n = len(data)
    if n < MIN_PAIRS:
        return -np.inf, np.inf
    # The percentile bootstrap of few pairs is too narrow: 8 of them give 87 % for 95 %. Widened as Student's t is over
    # the normal distribution (Hesterberg, What Teachers Should Know about the Bootstrap, 2014) they give 92 %.
    confidence = 1 - 2 * norm.cdf(-np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1))
    found = bootstrap(
        (data,),
        statistic,
        n_resamples=N_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=vectorized,
        rng=0,
    ).confidence_interval
    return found.low, found.high


def _weighted_quantile(turns: Sequence[Sequence[float]], quantile: float) -> Callable[[npt.NDArray[np.int64]], float]:
    """Return the function that gives a quantile of all values, each turn's taken as often as it is told."""
    values = np.concatenate([np.asarray(turn, np.float64) for turn in turns])
    order = np.argsort(values)
    turn_of = np.repeat(np.arange(len(turns)), [len(turn) for turn in turns])[order]
    # A grid of ranks is fine enough, and resampling takes as long for a million values as for thousands.
    grid = np.unique(np.linspace(0, len(values) - 1, GRID).astype(np.int64))
    below = np.stack([np.cumsum(turn_of == turn)[grid] for turn in range(len(turns))], axis=1)
    values = values[order][grid]

    def at(counts: npt.NDArray[np.int64]) -> float:
        weights = below @ counts
        return float(values[np.searchsorted(weights, quantile * weights[-1])])

    return at
