"""Stages and routes out of Prometheus text."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from counting_server import Metrics, metrics_endpoint
from hypothesis import given
from hypothesis import strategies as st

from dualpath.compare.breakdown import metrics
from dualpath.compare.breakdown.metrics import Series
from dualpath.compare.result import Stage


def test_counters_of_bls_models_are_read_and_others_are_not():
    it = Metrics()
    it.stage("m", "request", 2, 0.5)
    it.rows("m", "cuml (bert late)", 7)
    with metrics_endpoint(it) as url:
        assert metrics.read(url) == {
            Series("m", "count", "request"): 2,
            Series("m", "seconds", "request"): 0.5,
            Series("m", "rows", "cuml (bert late)"): 7,
        }


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")), st.integers(0, 2**53))
def test_any_label_and_number_comes_through(route, n):
    escaped = route.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    text = f'# TYPE bls_rows_total counter\nbls_rows_total{{model="m",route="{escaped}"}} {n}\n'
    assert metrics.parse(text) == {Series("m", "rows", route): n}


def test_an_address_without_metrics_is_an_error():
    with metrics_endpoint(Metrics()) as url, pytest.raises(OSError, match="404"):
        metrics.read(f"{url}/else")
    with pytest.raises(OSError, match="refused"):
        metrics.read(url)


def test_an_address_that_speaks_no_http_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\n")

        answered = pool.submit(answer)
        with pytest.raises(ValueError, match="no HTTP at http://127"):
            metrics.read(f"http://127.0.0.1:{listening.getsockname()[1]}/metrics")
        answered.result()


@pytest.mark.parametrize("labels", ["", '{model="m"}', '{route="cuml"}'])
def test_a_family_of_the_same_name_without_its_labels_is_somebody_elses(labels):
    assert metrics.parse(f"# TYPE bls_rows_total counter\nbls_rows_total{labels} 3\n") == {}


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with metrics_endpoint(Metrics()) as url:
        assert metrics.read(url) == {}


def test_counters_that_began_anew_count_from_there():
    series = Series("m", "rows", "cuml")
    assert metrics.difference({series: 5}, {series: 3}) == {series: 2}
    assert metrics.difference({series: 5}, {series: 8}) == {series: 5}
    assert metrics.difference({series: 5}, {}) == {series: 5}


def test_stages_that_did_not_run_and_series_without_their_other_half_are_left_out():
    counted = {
        Series("m", "count", "idle"): 0.0,
        Series("m", "seconds", "idle"): 0.0,
        Series("m", "count", "half"): 2.0,
        Series("m", "seconds", "other half"): 2.0,
        Series("m", "rows", "never"): 0.0,
    }
    assert list(metrics.stages("A", counted, "m")) == []


def test_stages_come_before_routes_the_most_frequent_first_and_own_ones_by_their_plain_names():
    counted = {
        Series("m", "rows", "cuml"): 9.0,
        Series("m", "count", "bert"): 2.0,
        Series("m", "seconds", "bert"): 0.5,
        Series("m", "count", "request"): 4.0,
        Series("m", "seconds", "request"): 2.0,
    }
    assert list(metrics.stages("A", counted, "m")) == [
        Stage("A", "request", 4, 500.0),
        Stage("A", "bert", 2, 250.0),
        Stage("A", "cuml", 9, None),
    ]
    assert [stage.name for stage in metrics.stages("A", counted, "n")] == ["m: request", "m: bert", "m: cuml"]
