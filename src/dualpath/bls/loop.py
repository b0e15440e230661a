"""Run the graph as a coroutine per request, on one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from dualpath.bls.metrics import Metrics
from dualpath.bls.request import Arrays, Faults, Request, respond, respond_error
from dualpath.bls.shared_loop import Done, SharedLoop
from dualpath.bls.triton import pb_utils

Handle = Callable[[Request], Awaitable[Arrays]]

DRAIN_S = 60.0
"""How long `close` waits for the requests in flight."""


class Loop:
    """Answers requests by a coroutine each, without keeping `execute` for those that wait for a slow child.

    `serve` waits until each request is either answered or waits for a slow child. What is answered
    goes back with the return of `execute`: one message to Triton for all. What waits is answered later, each through
    its own response sender, while `execute` takes new requests.

    Args:
        handle: the graph: gets a request and returns its outputs by name.
        faults: errors that are the caller's; they are answered with INVALID_ARG, others with INTERNAL.
        max_rows: bound of the rows in flight. At the bound `serve` waits, and the rest waits in Triton's queue, where
            its queue policy and its metrics hold.
        metrics: where rows in flight and the time of each request are shown; `close` closes it.
        n_threads: calls to children in flight at a time.
    """

    def __init__(
        self,
        handle: Handle,
        faults: Faults = (),
        *,
        metrics: Metrics | None = None,
        max_rows: int = 1024,
        n_threads: int = 16,
    ) -> None:
        self._handle = handle
        self._metrics = metrics
        self._faults = faults
        self._max_rows = max_rows
        self._rows = 0
        self._rows_changed = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = SharedLoop(lambda: bool(self._tasks), n_threads)
        if metrics:
            metrics.gauge("rows_in_flight", lambda: self._rows)

    def serve(self, requests: Sequence[Any]) -> list[Any]:
        """Return what `execute` must: a response for each request, or None where it is answered later."""
        if not requests:
            return []
        batch = _Batch(len(requests))
        answers = [_Answer(raw, batch) for raw in requests]
        self._enter(sum(answer.n_rows for answer in answers))
        self._loop.run(partial(self._begin, batch, answers))
        return [answer.response for answer in answers]

    def close(self) -> None:
        """Finish the requests in flight, or fail those that are not finished after a minute; then stop.

        Calls to children that do not come back are left to themselves.
        """
        with self._rows_changed:
            drained = self._rows_changed.wait_for(lambda: self._rows == 0, DRAIN_S)
        if not drained:
            self._loop.run(self._give_up)
        self._loop.close()
        if self._metrics:
            self._metrics.close()

    def _enter(self, n_rows: int) -> None:
        with self._rows_changed:
            # A batch larger than the bound enters alone.
            self._rows_changed.wait_for(lambda: self._rows == 0 or self._rows + n_rows <= self._max_rows)
            self._rows += n_rows

    def _leave(self, n_rows: int) -> None:
        with self._rows_changed:
            self._rows -= n_rows
            self._rows_changed.notify_all()

    def _begin(self, batch: _Batch, answers: list[_Answer], done: Done) -> None:
        batch.done = done
        for answer in answers:
            task = self._loop.create_task(self._answer(answer))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _give_up(self, done: Done) -> None:
        for task in self._tasks:
            task.cancel("the model is being unloaded.")
        done()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._loop.note_idle()

    async def _answer(self, answer: _Answer) -> None:
        started = time.perf_counter()
        try:
            response = respond(await self._handle(answer.read()))
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # a caller must not wait for ever
            response = respond_error(error, self._faults)
        if self._metrics:
            self._metrics.observe("stage_seconds", time.perf_counter() - started, stage="request")
        try:
            await answer.give(response)
        except Exception as error:
            pb_utils.Logger.log_error(f"a response could not be sent: {error}")
        finally:
            self._leave(answer.n_rows)


class _Batch:
    """Counts the requests of one `execute` that are neither answered nor waiting for a slow child."""

    def __init__(self, n_requests: int) -> None:
        self._n_open = n_requests
        self.done: Done = lambda: None

    def settle_one(self) -> None:
        self._n_open -= 1
        if self._n_open == 0:
            self.done()


class _Answer:
    """One request's answer: given exactly once, with the return of `execute` or later by its sender."""

    def __init__(self, raw: Any, batch: _Batch) -> None:
        self.response: Any = None
        self.n_rows = 0
        self._raw = raw
        self._batch = batch
        self._sender: Any = None
        try:
            self._request: Request | Exception = Request(raw, self.later)
            self.n_rows = self._request.n_rows
        except Exception as error:
            self._request = error

    def read(self) -> Request:
        """Return the request, or raise what went wrong as it was read."""
        if isinstance(self._request, Exception):
            raise self._request
        return self._request

    def later(self) -> None:
        """Let `execute` return without this answer."""
        if self._sender is None and self.response is None:
            self._sender = self._raw.get_response_sender()
            self._batch.settle_one()

    async def give(self, response: Any) -> None:
        """Give the answer to `execute`, or send it where `execute` does not wait for it."""
        if isinstance(self._request, Request):
            with suppress(asyncio.CancelledError):  # given up just now: the answer goes out all the same
                await self._request.close()
        if self._sender is None:
            self.response = response
            self._batch.settle_one()
            return
        # `send` waits until Triton has taken the response: less than two changes of threads would take.
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
