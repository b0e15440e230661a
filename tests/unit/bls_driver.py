"""Drives the toolkit as Triton does: one thread that executes, children that answer when a test lets them."""

import gc
import inspect
import json
import logging
import queue
import threading
from concurrent.futures import Future
from contextlib import contextmanager

import fake_triton
import numpy as np
from fake_triton import ReceivedRequest

from dualpath.bls import BatchedChild, ModelConfig, Pipeline

PATIENCE_S = 5
"""How long a test waits for what must happen: reached only if something hangs."""
PAUSE_S = 0.03
"""How long a test watches for what must not happen."""


class Worker:
    """A thread that runs one thing after the other, and that does not keep the tests from ending if one hangs."""

    def __init__(self):
        self._work: queue.Queue = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function) -> Future:
        future: Future = Future()
        self._work.put((function, future))
        return future

    def stop(self):
        self._work.put(None)

    def _run(self):
        while work := self._work.get():
            function, future = work
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


def model_config(max_batch_size=512, decoupled=False, outputs=(), **raw):
    """The config of a model "m"."""
    config = {"max_batch_size": max_batch_size, "input": [], "output": list(outputs), **raw}
    if decoupled:
        config["model_transaction_policy"] = {"decoupled": True}
    return ModelConfig(
        {
            "model_config": json.dumps(config),
            "model_name": "m",
            "model_version": "1",
            "model_repository": "/nowhere",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )


class Server:
    """Triton's side of a model that serves by a `Pipeline`."""

    def __init__(self, graph, **options):
        self._is_decoupled = inspect.isasyncgenfunction(graph)
        self._pipeline = Pipeline(graph, model_config(decoupled=self._is_decoupled), **options)
        self._execute = Worker()
        self._finalize = Worker()
        self._closed: Future | None = None
        self.requests: list[ReceivedRequest] = []

    def execute(self, *requests: ReceivedRequest) -> Future:
        """Start one `execute` of these requests, after those started before."""
        for request in requests:
            request.is_decoupled = self._is_decoupled
        self.requests.extend(requests)
        return self._execute.submit(lambda: self._serve(requests))

    def _serve(self, requests):
        answers = self._pipeline.execute(requests)
        if self._is_decoupled:
            assert answers is None
            answers = [None] * len(requests)
        assert len(answers) == len(requests)
        for request, answer in zip(requests, answers, strict=True):
            request.end_of_execute(answer)
        self._let_the_event_loop_begin()

    def _let_the_event_loop_begin(self):
        """Wait until what was sent off has come as far as it does without waiting."""
        loop, has_begun = self._pipeline._loop._loop, threading.Event()

        def go_round(times):
            if times:
                loop.call_soon(go_round, times - 1)
            else:
                has_begun.set()

        loop.call_soon_threadsafe(go_round, 8)
        has_begun.wait(PATIENCE_S)

    def ask(self, *requests: ReceivedRequest) -> list[fake_triton.InferenceResponse]:
        """Execute these requests together, and wait until `execute` has returned and all are answered."""
        self.execute(*requests).result(PATIENCE_S)
        return [answer_to(request) for request in requests]

    def close(self) -> Future:
        """Start what `finalize` does, once."""
        if self._closed is None:
            self._closed = self._finalize.submit(self._pipeline.close)
        return self._closed

    def stop(self):
        self.close().result(PATIENCE_S)
        self._execute.stop()
        self._finalize.stop()


@contextmanager
def serving(handle, **options):
    """A `Server` whose requests must all be answered exactly once and by Triton's rules when the block ends."""
    with quiet_asyncio():
        server = Server(handle, **options)
        try:
            yield server
        finally:
            for child in fake_triton.CHILDREN.values():
                if isinstance(child, Gated):
                    child.open()
            server.stop()
        for request in server.requests:
            assert len(request.answers) == 1
            assert request.violations == []
            assert request.sent_flags == [fake_triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL] * request.has_sender


@contextmanager
def quiet_asyncio():
    """Fail if asyncio has something to say: a task destroyed, an exception never retrieved."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield
        gc.collect(1)
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def execute(server, *requests):
    server.execute(*requests).result(PATIENCE_S)


def answer_to(request):
    assert request.answered.wait(PATIENCE_S), "the request was not answered"
    return request.answers[0]


class Call:
    """One call that a `Gated` child has received."""

    def __init__(self, rows):
        self.rows = rows.tolist()
        self._error = None
        self._let_through = threading.Event()

    def let_through(self, error=None):
        """Let the child answer, or fail with these words."""
        self._error = error
        self._let_through.set()

    def open(self):
        self._let_through.set()

    def wait(self):
        assert self._let_through.wait(PATIENCE_S), "the test never let this call through"
        if self._error:
            raise RuntimeError(self._error)


class Gated:
    """A child on int64 rows `x` of [value, length, padding ...] that answers `y` = value, once it is let."""

    def __init__(self, is_open=False):
        self._is_open = is_open
        self._arrivals: queue.Queue[Call] = queue.Queue()
        self._calls: list[Call] = []

    @property
    def n_calls(self):
        return len(self._calls)

    def __call__(self, inputs):
        call = Call(inputs["x"])
        self._calls.append(call)
        self._arrivals.put(call)
        if not self._is_open:
            call.wait()
        return {"y": inputs["x"][:, :1].astype(np.float32)}

    def next_call(self) -> Call:
        return self._arrivals.get(timeout=PATIENCE_S)

    def open(self):
        """Let all calls through, those that wait and those to come."""
        self._is_open = True
        for call in self._calls:
            call.open()


def values(call):
    return [row[0] for row in call.rows]


def asking(*rows, length=2, **request):
    """A request for rows of these values, or (value, length) pairs."""
    pairs = [row if isinstance(row, tuple) else (row, length) for row in rows]
    return ReceivedRequest({"rows": np.array(pairs, np.int64).reshape(-1, 2)}, **request)


async def echo(request):
    """A handler that answers each row with its first value."""
    return {"y": request.inputs["rows"][:, :1]}


def rows_of(request):
    """The rows that a request of `asking` wants answered: arrays of the lengths that it says."""
    return [np.pad([value, length], (0, length - 2)) for value, length in request.inputs["rows"]]


def pad(rows):
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return {"x": padded}


def merging(name="child", **options):
    """A child with the function `pad`, one call at a time and early return, unless told otherwise."""
    return BatchedChild(name, "y", pad, **{"in_flight": 1, "chunk_rows": 16, "early_return": True, **options})


def passing_on(child):
    """A graph that asks this child for all rows."""

    async def handle(request):
        return {"y": await child.rows(rows_of(request))}

    return handle


def answered_values(response):
    assert not response.has_error(), response.error().message()
    return response.arrays()["y"][:, 0].tolist()


def error_of(response):
    assert response.has_error()
    return response.error().code(), response.error().message()
