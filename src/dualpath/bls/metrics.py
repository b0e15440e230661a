"""Counters, gauges and histograms on Triton's metrics endpoint, at a cost that does not grow with the load."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import accumulate
from typing import Any

from dualpath.bls.run import STAGE_SECONDS, Note, current_run
from dualpath.bls.triton import pb_utils

FLUSH_S = 1.0
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MOST_REPORTED = 16
RUNS_AT_ONCE = 64
"""Runs of a graph whose notes are added up at once: well under a millisecond's work."""
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
        self._counts: dict[tuple[str, _Labels], float] = {}
        self._histograms: dict[tuple[str, _Labels], _Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, _Labels], Any] = {}
        self._later: deque[Sequence[Note]] = deque()
        self._reported: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to the counter `bls_<name>_total`; from inside a graph, once the graph has answered."""
        self._note(f"{name}_total", value, labels)

    def count_each(self, name: str, label: str, values: Iterable[str]) -> None:
        """Add one to the counter `bls_<name>_total` for each value of the label."""
        for value, n in Counter(values).items():
            self.count(name, n, **{label: value})

    def observe(self, name: str, value: float, bounds: tuple[float, ...] = SECONDS, **labels: str) -> None:
        """Add a value to the histogram `bls_<name>`, whose buckets end at `bounds`; from a graph as `count` does."""
        self._note(name, value, labels, bounds)

    def _note(
        self, name: str, value: float, labels: Mapping[str, str], bounds: tuple[float, ...] | None = None
    ) -> None:
        run = current_run()
        if run is None:
            self._add(name, value, labels, bounds)
        else:
            run.notes.append((self._add, name, value, labels, bounds))

    def _add(
        self, name: str, value: float, labels: Mapping[str, str], bounds: tuple[float, ...] | None = None, n: int = 1
    ) -> None:
        """Add to a counter, or `n` times to a histogram, now: whatever becomes of the graph that the caller is part of.

        Args:
            bounds: of a histogram; None for a counter.
        """
        try:
            key = name, tuple(labels.items())
            with self._lock:
                if bounds is None:
                    self._counts[key] = self._counts.get(key, 0) + value
                else:
                    if key not in self._histograms:
                        self._histograms[key] = _Histogram(bounds)
                    self._histograms[key].add(value, n)
        except Exception as error:  # such as a label that cannot be one: a metric must never cost an answer
            self._warn(f"bls_{name} could not be counted: {error}")

    def _add_later(self, notes: Sequence[Note]) -> None:
        """Add what a run of a graph has noted: no request waits for it, and many at once cost less."""
        self._later.append(notes)
        if len(self._later) >= RUNS_AT_ONCE:
            self._catch_up()

    def _catch_up(self) -> None:
        with suppress(IndexError):  # none is left
            while True:
                for add, *what in self._later.popleft():
                    add(*what)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show what `read` returns as the gauge `bls_<name>`."""
        self._gauges[name] = read

    def stage(self, stage: str) -> AbstractContextManager[None]:
        """Observe how long the block takes, in `bls_stage_seconds` with the label `stage`."""
        return _Stage(self, stage)

    def _observe_stage(self, stage: str, elapsed_s: float) -> None:
        """Observe a stage, and what runs that were given up have spent on it."""
        if (run := current_run()) and run.spent_s:
            elapsed_s += run.spent_s.pop(stage, 0.0)
        self._note(STAGE_SECONDS, elapsed_s, {"stage": stage}, SECONDS)

    def close(self) -> None:
        """Pass on what is left and stop."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        self._catch_up()
        with self._lock:
            counts, self._counts = self._counts, {}
            histograms, self._histograms = self._histograms, {}
        for (name, labels), histogram in histograms.items():
            counts[f"{name}_sum", labels] = histogram.total
            counts[f"{name}_count", labels] = sum(histogram.counts)
            for bound, n in zip((*histogram.bounds, "+Inf"), accumulate(histogram.counts), strict=True):
                counts[f"{name}_bucket", (*labels, ("le", str(bound)))] = n
        for (name, labels), value in counts.items():
            if value or (name, labels) not in self._metrics:
                with self._warned(name):
                    self._metric(name, labels, pb_utils.MetricFamily.COUNTER).increment(value)
        for name, read in self._gauges.items():
            with self._warned(name):
                self._metric(name, (), pb_utils.MetricFamily.GAUGE).set(read())

    @contextmanager
    def _warned(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a metric must cost neither an answer nor another metric
            self._warn(f"bls_{name} could not be passed on: {error}")

    def _metric(self, name: str, labels: _Labels, kind: Any) -> Any:
        if (name, labels) not in self._metrics:
            if name not in self._families:
                self._families[name] = pb_utils.MetricFamily(
                    name=f"bls_{name}", description=_DESCRIPTIONS.get(name, name.replace("_", " ")), kind=kind
                )
            self._metrics[name, labels] = self._families[name].Metric(labels={"model": self._model, **dict(labels)})
        return self._metrics[name, labels]

    def _warn(self, message: str) -> None:
        """Say once what is wrong with a metric: it will be so at each flush."""
        if message not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(message)
            pb_utils.Logger.log_warn(message)


class _Stage(AbstractContextManager[None]):
    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._metrics, self._stage = metrics, stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._metrics._observe_stage(self._stage, time.perf_counter() - self._started)


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
