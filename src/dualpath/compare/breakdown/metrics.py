"""Stages and routes of BLS models, from the counters that `dualpath.bls.Metrics` keeps on Triton's metrics endpoint."""

import http.client
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from dualpath.compare.result import Stage
from dualpath.inference import served

SETTLE_S = 1.2
"""The models pass their counters on once a second."""
METRICS_TIMEOUT_S = 5.0

_FAMILIES = {
    "bls_stage_seconds_count": ("count", "stage"),
    "bls_stage_seconds_sum": ("seconds", "stage"),
    "bls_rows": ("rows", "route"),
}


class Series(NamedTuple):
    """One counter: "count" and "seconds" of a stage, "rows" of a route."""

    model: str
    kind: str
    name: str


Reading = Mapping[Series, float]


def read(url: str) -> dict[Series, float]:
    """Read the BLS models' counters; OSError if nothing answers, ValueError if what answers are no metrics."""
    return parse(_text(url))


def tells_any(url: str) -> bool:
    """Say whether a BLS model tells anything; raises as `read` does."""
    return any(line.startswith("bls_") for line in _text(url).splitlines())


def _text(url: str) -> str:
    try:
        return served.read(url, METRICS_TIMEOUT_S)
    except http.client.HTTPException as error:
        raise ValueError(f"no HTTP at {url}: {error!r}") from error


def parse(text: str) -> dict[Series, float]:
    """Parse Prometheus text; families that are not known are left out."""
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name in _FAMILIES:
            kind, label = _FAMILIES[family.name]
            for sample in family.samples:
                if not {"model", label} <= sample.labels.keys():  # somebody else's, of the same name
                    continue
                found[Series(sample.labels["model"], kind, sample.labels[label])] = sample.value
    return found


def difference(after: Reading, before: Reading) -> dict[Series, float]:
    """Return by how much each counter has grown; all of it if it has restarted meanwhile."""
    pairs = {series: (value, before.get(series, 0.0)) for series, value in after.items()}
    return {series: now - then if now >= then else now for series, (now, then) in pairs.items()}


def stages(contender: str, counted: Reading, own: str | None) -> Iterator[Stage]:
    """Yield each model's stages, then its routes, in order of their numbers; those of model `own` by plain names."""
    kinds = {"count": 0, "rows": 1}
    by_size = sorted(counted, key=lambda series: (series.model, kinds.get(series.kind, 2), -counted[series]))
    for series in by_size:
        n = round(counted[series])
        if n and series.kind in kinds:
            seconds = counted.get(series._replace(kind="seconds"))
            name = series.name if series.model == own else f"{series.model}: {series.name}"
            mean_ms = seconds * 1e3 / n if series.kind == "count" and seconds is not None else None
            if series.kind == "rows" or mean_ms is not None:
                yield Stage(contender, name, n, mean_ms)
