"""What a model counts about itself, as it arrives at Triton's metrics endpoint."""

from collections import Counter

import fake_triton
import numpy as np
import pytest
from bls_driver import asking, serving
from hypothesis import given
from hypothesis import strategies as st

from dualpath.bls import Metrics


def metric(name, **labels):
    """A metric's value at the server; None if it was never touched."""
    return fake_triton.METRICS[f"bls_{name}"].get(tuple(sorted({"model": "m", **labels}.items())))


@pytest.fixture
def metrics():
    metrics = Metrics("m")
    yield metrics
    metrics.close()


def test_counts_are_added_up_by_labels(metrics):
    metrics.count("calls", child="a", outcome="ok")
    metrics.count("calls", child="b", outcome="ok")
    metrics.count("calls", 2, child="a", outcome="ok")
    metrics.close()
    assert metric("calls_total", child="a", outcome="ok") == 3
    assert metric("calls_total", child="b", outcome="ok") == 1


def test_counts_go_on_from_one_flush_to_the_next(metrics):
    metrics.count("calls")
    metrics._flush()
    assert metric("calls_total") == 1
    metrics._flush()
    assert metric("calls_total") == 1
    metrics.count("calls")
    metrics.close()
    assert metric("calls_total") == 2


def test_values_of_a_label_are_counted_each(metrics):
    metrics.count_each("rows", "route", np.array(["a", "b", "a"], object))
    metrics.close()
    assert (metric("rows_total", route="a"), metric("rows_total", route="b")) == (2, 1)


@pytest.mark.parametrize(
    ("value", "cumulative"),
    [(0, [1, 1, 1]), (1, [1, 1, 1]), (1.001, [0, 1, 1]), (4, [0, 1, 1]), (4.5, [0, 0, 1])],
)
def test_a_bucket_holds_the_values_up_to_and_at_its_bound(metrics, value, cumulative):
    metrics.observe("size", value, bounds=(1, 4))
    metrics.close()
    assert [metric("size_bucket", le=bound) for bound in ("1", "4", "+Inf")] == cumulative
    assert (metric("size_sum"), metric("size_count")) == (value, 1)


@given(st.lists(st.integers(0, 12), max_size=30))
def test_buckets_are_cumulative(values):
    fake_triton.reset()
    bounds = (2, 5, 10)
    metrics = Metrics("m")
    for value in values:
        metrics.observe("size", value, bounds, child="c")
    metrics.close()
    for bound in (*bounds, np.inf):
        expected = sum(value <= bound for value in values)
        label = "+Inf" if bound == np.inf else str(bound)
        assert (metric("size_bucket", child="c", le=label) or 0) == expected
    assert (metric("size_count", child="c") or 0) == len(values)
    assert (metric("size_sum", child="c") or 0) == sum(values)


def test_a_stage_is_timed_also_when_it_fails(metrics):
    with pytest.raises(ZeroDivisionError), metrics.stage("tokens"):
        _ = 1 / 0
    metrics.close()
    assert metric("stage_seconds_count", stage="tokens") == 1
    assert metric("stage_seconds_bucket", stage="tokens", le="+Inf") == 1


def test_a_gauge_shows_what_it_reads_at_each_flush(metrics):
    level = [3]
    metrics.gauge("rows_in_flight", lambda: level[0])
    metrics._flush()
    assert metric("rows_in_flight") == 3
    level[0] = 0
    metrics.close()
    assert metric("rows_in_flight") == 0


def test_counters_and_gauges_are_declared_as_such(metrics, monkeypatch):
    kinds = Counter()

    class Family(fake_triton.MetricFamily):
        def __init__(self, name, description, kind):
            super().__init__(name, description, kind)
            assert description
            kinds[name, kind] += 1

    monkeypatch.setattr(fake_triton, "MetricFamily", Family)
    for _ in range(2):
        metrics.count("calls", child="a")
        metrics.count("calls", child="b")
        metrics.gauge("level", lambda: 1)
        metrics._flush()
    assert kinds == {("bls_calls_total", Family.COUNTER): 1, ("bls_level", Family.GAUGE): 1}


def test_a_failing_metric_costs_no_answer(monkeypatch):
    def fail(*_):
        raise fake_triton.TritonModelException("no metrics today")

    monkeypatch.setattr(fake_triton.Metric, "increment", fail)

    metrics = Metrics("m")

    async def handle(request):
        metrics.count("calls")
        metrics._flush()
        return {"y": request.inputs["rows"]}

    with serving(handle, metrics=metrics) as server:
        [first] = server.ask(asking((1, 2)))
        [second] = server.ask(asking((3, 4)))
    assert [first.arrays()["y"].tolist(), second.arrays()["y"].tolist()] == [[[1, 2]], [[3, 4]]]
    assert ("warn", "bls_calls_total could not be passed on: no metrics today") in fake_triton.LOGGED


def test_a_failing_metric_costs_no_other_metric_and_is_named_once(metrics, monkeypatch):
    increment = fake_triton.Metric.increment

    def fail(metric, value):
        if dict(metric._labels).get("child") == "b":
            raise fake_triton.TritonModelException("no such metric")
        increment(metric, value)

    monkeypatch.setattr(fake_triton.Metric, "increment", fail)
    metrics.gauge("broken", lambda: 1 / 0)
    metrics.gauge("level", lambda: 3)
    for _ in range(2):
        for child in "abc":
            metrics.count("calls", child=child)
        metrics._flush()
    assert [metric("calls_total", child=child) for child in "ac"] == [2, 2]
    assert metric("level") == 3
    assert fake_triton.LOGGED == [
        ("warn", "bls_calls_total could not be passed on: no such metric"),
        ("warn", "bls_broken could not be passed on: division by zero"),
    ]


def test_a_pipeline_shows_its_rows_in_flight_and_the_time_of_each_request():
    metrics = Metrics("m")
    seen = []

    async def handle(request):
        metrics._flush()
        seen.append(metric("rows_in_flight"))
        return {"y": request.inputs["rows"]}

    with serving(handle, metrics=metrics) as server:
        server.ask(asking(1, 2, 3), asking(4))
    assert seen[0] == 4
    assert metric("rows_in_flight") == 0
    assert metric("stage_seconds_count", stage="request") == 2
