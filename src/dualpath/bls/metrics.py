"""Counters, gauges and histograms on Triton's metrics endpoint, at a cost that does not grow with the load."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

from dualpath.bls.run import current_run
from dualpath.bls.triton import pb_utils

FLUSH_S = 1.0
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What a model counts about itself, all under the prefix `bls_` and with the label `model`.

    Every touch of a Triton metric is a message to the server and back. So values are added up here and passed on once
    a second. A histogram is kept as Prometheus defines one (`_bucket` with the label `le`, `_sum`, `_count`), in
    counters, since `Metric.observe` would be a message for every value.

    Args:
        model: value of the label `model`.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, _Labels]] = Counter()
        self._histograms: dict[tuple[str, _Labels], _Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, _Labels], Any] = {}
        self._later: deque[Callable[[], None]] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to the counter `bls_<name>_total`; from inside a graph, once the graph has answered."""
        self._note(lambda: self._count_now(name, value, **labels))

    def _count_now(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to the counter `bls_<name>_total`, whatever becomes of the graph that the caller is part of."""
        with self._lock:
            self._counts[f"{name}_total", tuple(labels.items())] += value  # type: ignore[assignment]

    def count_each(self, name: str, label: str, values: Iterable[str]) -> None:
        """Add one to the counter `bls_<name>_total` for each value of the label."""
        for value, n in Counter(values).items():
            self.count(name, n, **{label: value})

    def observe(self, name: str, value: float, bounds: tuple[float, ...] = SECONDS, **labels: str) -> None:
        """Add a value to the histogram `bls_<name>`, whose buckets end at `bounds`; from a graph as `count` does."""
        self._note(lambda: self._observe_now(name, value, labels, bounds))

    def _observe_now(
        self, name: str, value: float, labels: Mapping[str, str], bounds: tuple[float, ...] = SECONDS, n: int = 1
    ) -> None:
        """Add a value `n` times to the histogram `bls_<name>`, whatever becomes of the graph."""
        key = name, tuple(labels.items())
        with self._lock:
            if key not in self._histograms:
                self._histograms[key] = _Histogram(bounds)
            self._histograms[key].add(value, n)

    @staticmethod
    def _note(what: Callable[[], None]) -> None:
        run = current_run()
        if run is None:
            what()
        else:
            run.notes.append(partial(_try, what))

    def _do_later(self, notes: Iterable[Callable[[], None]]) -> None:
        """Do before the next flush what runs of a graph have noted: requests need not wait for it."""
        self._later.extend(notes)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show what `read` returns as the gauge `bls_<name>`."""
        self._gauges[name] = read

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Observe how long the block takes, in `bls_stage_seconds` with the label `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe("stage_seconds", time.perf_counter() - started, stage=stage)

    def close(self) -> None:
        """Pass on what is left and stop."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._later:
            self._later.popleft()()
        with self._lock:
            counts, self._counts = self._counts, Counter()
            histograms, self._histograms = self._histograms, {}
        for (name, labels), histogram in histograms.items():
            counts[f"{name}_sum", labels] = histogram.total  # type: ignore[assignment]
            counts[f"{name}_count", labels] = sum(histogram.counts)
            for bound, n in zip((*histogram.bounds, "+Inf"), accumulate(histogram.counts), strict=True):
                counts[f"{name}_bucket", (*labels, ("le", str(bound)))] = n
        try:
            for (name, labels), value in counts.items():
                self._metric(name, labels, pb_utils.MetricFamily.COUNTER).increment(value)
            for name, read in self._gauges.items():
                self._metric(name, (), pb_utils.MetricFamily.GAUGE).set(read())
        except Exception as error:  # a metric must never cost an answer
            pb_utils.Logger.log_warn(f"metrics could not be passed on: {error}")

    def _metric(self, name: str, labels: _Labels, kind: Any) -> Any:
        if (name, labels) not in self._metrics:
            if name not in self._families:
                self._families[name] = pb_utils.MetricFamily(
                    name=f"bls_{name}", description=_DESCRIPTIONS.get(name, name.replace("_", " ")), kind=kind
                )
            self._metrics[name, labels] = self._families[name].Metric(labels={"model": self._model, **dict(labels)})
        return self._metrics[name, labels]


def _try(what: Callable[[], None]) -> None:
    try:
        what()
    except Exception as error:  # such as a label that cannot be one: a metric must never cost an answer
        pb_utils.Logger.log_warn(f"a metric could not be counted: {error}")


class _Histogram:
    """Values since the last flush: how many fell between each two bounds, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, n: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += n
        self.total += n * value


_DESCRIPTIONS = {
    "rows_total": "Rows answered, by route",
    "rows_in_flight": "Rows taken from Triton's queue and not yet answered",
    "calls_total": "Calls to children, by child and outcome",
    "fallbacks_total": "Rows answered without a child that failed or was late, by child and reason",
}
