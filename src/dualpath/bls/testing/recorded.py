"""The log and the metrics of a model under test, kept for the test to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from dualpath.bls.testing.tensor import TritonModelException

LOGGED: list[tuple[str, str]] = []
"""What was logged: (level, text)."""
METRICS: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
"""Values by family name and sorted labels."""


def _keeps(level: str) -> staticmethod[[str], None]:
    return staticmethod(lambda text: LOGGED.append((level, text)))


class Logger:
    """Keeps what is logged in `LOGGED`."""

    log_verbose, log_info = _keeps("verbose"), _keeps("info")
    log_warn, log_error = _keeps("warn"), _keeps("error")


class MetricFamily:
    """Metrics of one name."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.description, self.kind = name, description, kind

    def Metric(self, labels: Mapping[str, str]) -> Metric:
        return Metric(self, tuple(sorted(labels.items())))


class Metric:
    def __init__(self, family: MetricFamily, labels: tuple[tuple[str, str], ...]) -> None:
        self._family, self._labels = family, labels
        METRICS[family.name].setdefault(labels, 0)

    def value(self) -> float:
        return METRICS[self._family.name][self._labels]

    def increment(self, value: float) -> None:
        if self._family.kind == MetricFamily.HISTOGRAM or (self._family.kind == MetricFamily.COUNTER and value < 0):
            raise self._unsupported("increment", "it")
        METRICS[self._family.name][self._labels] += value

    def set(self, value: float) -> None:
        if self._family.kind != MetricFamily.GAUGE:
            raise self._unsupported("set", "Set")
        METRICS[self._family.name][self._labels] = value

    def _unsupported(self, verb: str, what: str) -> TritonModelException:
        kind = f"TRITONSERVER_METRIC_KIND_{self._family.kind.upper()}"
        return TritonModelException(f"Failed to {verb} metric value: {kind} does not support {what}")
