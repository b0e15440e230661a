"""What becomes of a request whose bert-large is gone, late or no longer asked for."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import ask, rows_seen, rows_so_far, tensors
from starting import start
from tritonclient.utils import InferenceServerException

from dualpath.readability.samples import SAMPLES
from processes import stubs

TEXTS = [*SAMPLES.values()][:3]
WEIGHTS = [0, 0.5, 1]
FALLBACK = {"parameters": {"on_bert_error": "fallback"}}
LATE_FALLBACK = {"parameters": {"on_bert_late": "fallback"}}

BUSY_ROWS = 256
"""Rows of about seventy tokens that keep all instances of bert-large busy for longer than these tests look on."""


@pytest.fixture(scope="module")
def server(model_repository, tmp_path_factory):
    """A server of this module's own: what is done to its bert-large disturbs nobody."""
    with start(model_repository, log_path=tmp_path_factory.mktemp("triton") / "triton.log") as it:
        yield it


@pytest.fixture(scope="module")
def forest(reference):
    return reference.forest([text.encode() for text in TEXTS])


@pytest.fixture(scope="module")
def expected(reference):
    return reference.score([text.encode() for text in TEXTS], np.array(WEIGHTS, np.float32))


def refusal(client, *request, **options):
    with pytest.raises(InferenceServerException) as caught:
        ask(client, *request, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def await_unloaded(client, model):
    """Wait for the end of an unloading, which the call itself does not."""
    for _ in range(600):
        states = {row["name"]: row.get("state") for row in client.get_model_repository_index(as_json=True)["models"]}
        if states[model] == "UNAVAILABLE":
            return
        time.sleep(0.05)
    pytest.fail(f"{model} is still {states[model]}")


@contextmanager
def busy_bert(client):
    """Keep bert-large busy inside the block, and check afterwards that whoever did it got all its scores."""
    before = rows_so_far(client, "bert-large")
    with ThreadPoolExecutor(1) as pool:
        request = [f"Row {i}. " + "It was a dark and stormy night. " * 8 for i in range(BUSY_ROWS)], [1] * BUSY_ROWS
        answer = pool.submit(ask, client, *request)
        while rows_so_far(client, "bert-large") == before:
            time.sleep(0.01)
        yield
        assert not answer.done(), "bert-large was not busy long enough for this test"
        assert np.isfinite(answer.result()[0]).all()


def test_route_names_the_models_that_made_each_score(client, expected, tolerance):
    scores, routes = ask(client, TEXTS, WEIGHTS)
    assert routes == ["cuml", "bert+cuml", "bert"]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)


def test_outputs_that_are_not_asked_for_are_left_out(client, forest):
    score = triton.InferRequestedOutput("SCORE")
    answer = client.infer("orchestrator", tensors(TEXTS, [0, 0, 0]), outputs=[score])
    assert answer.as_numpy("SCORE")[:, 0].tolist() == forest.tolist()
    assert answer.as_numpy("ROUTE") is None
    route = triton.InferRequestedOutput("ROUTE")
    answer = client.infer("orchestrator", tensors(TEXTS, [0, 0, 0]), outputs=[route])
    assert answer.as_numpy("ROUTE").tolist() == [[b"cuml"]] * 3


@pytest.mark.parametrize("name", ["on_bert_error", "on_bert_late"])
def test_a_parameter_with_an_unknown_value_is_refused(client, name):
    assert refusal(client, TEXTS, WEIGHTS, parameters={name: "maybe"}) == (
        "INVALID_ARGUMENT",
        f"parameter {name!r}: expected fail or fallback, got 'maybe'. Send another.",
    )


def test_a_fallback_that_is_not_needed_changes_nothing(client, expected, tolerance):
    both = {"on_bert_error": "fallback", "on_bert_late": "fallback"}
    scores, routes = ask(client, TEXTS, WEIGHTS, parameters=both, timeout=60_000_000)
    assert routes == ["cuml", "bert+cuml", "bert"]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)


def assert_served_without_bert(client, forest):
    scores, routes = ask(client, TEXTS, [0, 0, 0])
    assert (scores.tolist(), routes) == (forest.tolist(), ["cuml"] * 3)

    started = time.monotonic()
    status, message = refusal(client, TEXTS, WEIGHTS)
    assert (status, message.split(":")[0]) == ("UNAVAILABLE", "bert-large"), message
    assert time.monotonic() - started < 10

    scores, routes = ask(client, TEXTS, WEIGHTS, **FALLBACK)
    assert scores.tolist() == forest.tolist()
    assert routes == ["cuml", "cuml (bert unavailable)", "cuml (bert unavailable)"]
    # That BERT may be late does not mean that it may be missing.
    assert refusal(client, TEXTS, WEIGHTS, **LATE_FALLBACK)[0] == "UNAVAILABLE"


def assert_served_with_bert(client, expected, tolerance):
    scores, routes = ask(client, TEXTS, WEIGHTS)
    assert routes == ["cuml", "bert+cuml", "bert"]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)
    assert client.is_model_ready("ensemble_all")


def test_without_bert_large_only_the_rows_that_need_it_fail_until_it_is_loaded_again(
    client, forest, expected, tolerance
):
    client.unload_model("bert-large")
    assert_served_without_bert(client, forest)
    await_unloaded(client, "bert-large")
    assert_served_without_bert(client, forest)
    client.load_model("bert-large")
    assert_served_with_bert(client, expected, tolerance)


def test_killed_processes_of_bert_large_fail_by_name_until_it_is_loaded_again(
    server, client, forest, expected, tolerance
):
    victims = stubs(server.pid, "bert-large")
    assert len(victims) == 3
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(refusal, client, ["A long wait. " * 40] * 64, [1] * 64)
        time.sleep(0.3)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        status, message = in_flight.result(timeout=20)
    assert (status, message.split(":")[0]) == ("UNAVAILABLE", "bert-large"), message
    assert_served_without_bert(client, forest)
    client.unload_model("bert-large")  # does not end: Triton 2.51 holds on to requests whose stub was killed
    client.load_model("bert-large")
    assert_served_with_bert(client, expected, tolerance)


def test_a_request_whose_timeout_ends_before_a_busy_bert_large_could_begin_is_refused_at_once(client, forest):
    late = re.compile(
        r"bert-large: (overloaded: )?expected an answer within the request's timeout, "
        r"got (none|a queue of [\d.]+ s; retry in \d+ s)\."
    )
    with busy_bert(client):
        status, message = refusal(client, TEXTS, WEIGHTS, timeout=100_000)
        assert (status, bool(late.fullmatch(message))) == ("UNAVAILABLE", True), message
        # That BERT may be missing does not mean that it may be late.
        status, message = refusal(client, TEXTS, WEIGHTS, timeout=100_000, **FALLBACK)
        assert (status, bool(late.fullmatch(message))) == ("UNAVAILABLE", True), message

        started = time.monotonic()
        scores, routes = ask(client, TEXTS, WEIGHTS, timeout=100_000, **LATE_FALLBACK)
        elapsed_s = time.monotonic() - started
        assert scores.tolist() == forest.tolist()
        assert routes == ["cuml", "cuml (bert late)", "cuml (bert late)"]
        assert elapsed_s < 0.5

        assert ask(client, TEXTS, [0, 0, 0], timeout=100_000)[0].tolist() == forest.tolist()


def test_rows_of_a_request_that_is_cancelled_or_expired_do_not_reach_bert_large(client):
    before = rows_seen(client, "bert-large")
    with busy_bert(client):
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            ask(client, TEXTS, [1, 1, 1], client_timeout=0.1)
        assert refusal(client, TEXTS, [1, 1, 1], timeout=50_000)[0] == "UNAVAILABLE"

        errors = SimpleQueue()
        call = client.async_infer(
            "orchestrator", tensors(TEXTS, [1, 1, 1]), lambda result, error: errors.put(error.status())
        )
        time.sleep(0.05)
        call.cancel()
        assert "CANCELLED" in errors.get(timeout=5)
    ask(client, TEXTS[:1], [1])  # leaves after all that was in the queue
    assert rows_seen(client, "bert-large") - before == BUSY_ROWS + 1
