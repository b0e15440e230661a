"""Graphs that answer several times, and children that do."""

import threading
import time
from contextlib import contextmanager

import fake_triton
import numpy as np
from bls_driver import PATIENCE_S, Server, answered_values, asking, error_of
from fake_triton import TritonError

from dualpath.bls import Child


def test_a_graph_that_yields_sends_each_answer_and_ends():
    async def graph(request):
        for value in request.inputs["rows"][0]:
            yield {"y": np.array([[value]])}

    request = asking((7, 8))
    with serving_a_stream(graph) as server:
        server.execute(request).result(PATIENCE_S)
        wait_for_the_end(request)
    assert [a.arrays()["y"].tolist() for a in request.answers if a is not None] == [[[7]], [[8]]]


def test_a_stream_that_fails_ends_with_its_error():
    async def graph(request):
        yield {"y": np.array([[1]])}
        raise ValueError("a bug")

    request = asking(1)
    with serving_a_stream(graph) as server:
        server.execute(request).result(PATIENCE_S)
        wait_for_the_end(request)
    first, last = request.answers
    assert first.arrays()["y"].tolist() == [[1]]
    assert error_of(last) == (TritonError.INTERNAL, "ValueError: a bug")


def test_a_stream_whose_child_falls_silent_is_late_at_the_requests_timeout():
    may_end = threading.Event()

    def child(inputs):
        yield {"y": inputs["x"]}
        may_end.wait(PATIENCE_S)

    fake_triton.CHILDREN["silent"] = child
    silent = Child("silent", "y")

    async def graph(request):
        async for answer in silent.stream({"x": request.inputs["rows"]}):
            yield {"y": answer}

    request = asking(1, timeout_us=200_000)
    with serving_a_stream(graph) as server:
        server.execute(request).result(PATIENCE_S)
        wait_for_the_end(request)
        may_end.set()
    first, last = request.answers
    assert answered_values(first) == [1]
    late = "silent: expected an answer within the request's timeout, got none."
    assert error_of(last) == (TritonError.UNAVAILABLE, late)


def serving_a_stream(graph):
    @contextmanager
    def serve():
        server = Server(graph)
        try:
            yield server
        finally:
            server.stop()

    return serve()


def wait_for_the_end(request):
    end = time.monotonic() + PATIENCE_S
    while fake_triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL not in request.sent_flags:
        assert time.monotonic() < end
        time.sleep(0.001)
