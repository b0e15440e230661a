"""Run a graph over the requests of an `execute`: those that arrived together as one, those that wait by themselves."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import copy_context
from itertools import accumulate, pairwise
from typing import Any

from dualpath.bls.config import ModelConfig
from dualpath.bls.errors import CallerGone, ChildFailed
from dualpath.bls.inline import Inline
from dualpath.bls.loop_thread import LoopThread
from dualpath.bls.metrics import SECONDS, Metrics
from dualpath.bls.request import CallerErrors, Reply, Request, respond, respond_error
from dualpath.bls.run import STAGE_SECONDS, Leave, Memo, Run, begin
from dualpath.bls.tensors import Array, Arrays
from dualpath.bls.triton import pb_utils

GraphFunction = Callable[[Request], Awaitable[Arrays]] | Callable[[Request], AsyncIterator[Arrays]]

DRAIN_S = 60.0
"""How long `close` waits for the requests in flight."""
GIVE_UP_S = 10.0
"""How long it then waits for those that it has failed."""

INLINE_ROWS = 128
INLINE_BYTES = 262_144
"""What one run takes at most while `execute` waits: a few milliseconds of preprocessing text."""

FAILURES = (Exception, asyncio.CancelledError, SystemExit)
"""What is answered with an error, whatever it is: a caller must not wait for ever."""


class Pipeline:
    """Answers requests by a graph: a coroutine function that gets a `Request` and returns its outputs by name.

    The rows of all requests that arrived together go through the graph as one, while `execute` waits, and their
    answers go back with its return. As soon as some of them have to wait for a slow child, the graph starts again for
    each of these by itself, on an event loop; they are answered later, while `execute` takes new requests ("early
    return"). What children and `in_slices` have answered already is not asked for again. If a run over several
    requests fails, they are run apart, so that an error reaches the request that it arose in and no other.

    A graph that is an async generator answers a request several times, each time that it yields: for decoupled models.

    Args:
        graph: gets a `Request` and returns an array for each output: as many rows as the request has.
        config: the model's own.
        caller_errors: exceptions that are the caller's fault; they are answered with INVALID_ARG, others with INTERNAL.
        metrics: where rows in flight and the time of each request are shown; `close` closes it.
        merge_requests: whether requests may share a run. Needs a batch dimension, and a graph to which rows of other
            requests make no difference.
        n_threads: calls to children at a time, for requests that wait.
    Raises:
        ConfigError: the configuration asks for what the toolkit cannot do.
    """

    def __init__(
        self,
        graph: GraphFunction,
        config: ModelConfig,
        *,
        caller_errors: CallerErrors = (),
        metrics: Metrics | None = None,
        merge_requests: bool = True,
        n_threads: int = 16,
    ) -> None:
        self._graph: Any = graph
        self._streams = inspect.isasyncgenfunction(graph)
        config._refuse_what_a_pipeline_cannot_do(streams=self._streams)
        self._has_batch = config.max_batch_size > 0
        self._merges = merge_requests and self._has_batch
        self._bf16 = config.bf16_outputs
        self._caller_errors = caller_errors
        self._metrics = metrics
        self._needs_loop = self._streams
        self._rows = 0
        self._rows_lock = threading.Lock()
        gpu = config._gpu_to_use()
        self._inline = Inline(gpu)
        self._loop = LoopThread(n_threads, gpu)
        if metrics:
            metrics.gauge("rows_in_flight", lambda: self._rows)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Return what a model's `execute` must: a response for each request, or None for those answered later; of a
        decoupled model None."""
        replies = [Reply(raw, self._has_batch) for raw in requests]
        self._count_rows(sum(reply.n_rows for reply in replies))
        try:
            for group in self._groups(replies):
                self._run(group, Memo())
        finally:
            self._count_rows(-sum(reply.n_rows for reply in replies if not reply.is_sent_off))
        for reply in replies:
            reply.wait_if_traced()
        return None if self._streams else [reply.response for reply in replies]

    def close(self) -> None:
        """Finish the requests in flight, or fail those that are not finished after a minute; then stop.

        Calls to children that do not come back are left to themselves.
        """
        if not self._drained(DRAIN_S):
            self._loop.cancel_all("the model is being unloaded.")
            self._drained(GIVE_UP_S)
        self._inline.close()
        self._loop.close()
        if self._metrics:
            self._metrics.close()

    def _drained(self, timeout_s: float) -> bool:
        """Wait for the requests in flight, and tell whether they have all been answered."""
        give_up = time.monotonic() + timeout_s
        while self._rows and time.monotonic() < give_up:
            time.sleep(0.01)
        return not self._rows

    def _count_rows(self, n_rows: int) -> None:
        with self._rows_lock:
            self._rows += n_rows

    def _groups(self, replies: Sequence[Reply]) -> list[list[Reply]]:
        """Answer requests that cannot be read, send off those that need the event loop, group the others."""
        groups: dict[Any, list[Reply]] = {}
        leaving = []
        for number, reply in enumerate(replies):
            if reply.error is not None:
                self._refuse(reply, reply.error)
            elif self._needs_loop or reply.trace or reply.is_larger_than(INLINE_ROWS, INLINE_BYTES):
                leaving.append(reply)
            elif self._merges and len(replies) > 1:
                groups.setdefault(reply.group(), []).append(reply)
            else:
                groups[number] = [reply]
        self._send_off(leaving, Memo())
        return [part for group in groups.values() for part in _parts(group)]

    def _run(self, replies: list[Reply], memo: Memo) -> None:
        """Answer requests that share a run, or send them off."""
        request = Request(replies)
        run = Run(request, [reply.n_rows for reply in replies], memo, inline=True)
        context = copy_context()
        context.run(begin, run)
        try:
            outputs = self._inline.drive(context.run(self._graph, request), context, request.deadline)
            responses = self._responses(replies, self._checked(outputs, request))
        except Leave as leave:
            self._needs_loop = self._needs_loop or leave.needs_loop
            memo.give_up(run)
            leaving = [reply for number, reply in enumerate(replies) if leave.owners is None or number in leave.owners]
            if not leave.apart:
                self._send_off(leaving, memo)
            if staying := [reply for reply in replies if reply not in leaving]:
                self._run(staying, memo)
            if leave.apart:
                for reply in leaving:
                    self._run([reply], memo)
            return
        except FAILURES as error:
            if len(replies) > 1:
                memo.give_up(run)
                n = 1 if isinstance(error, ChildFailed) else (len(replies) + 1) // 2
                for start in range(0, len(replies), n):
                    self._run(replies[start : start + n], memo)
                return
            responses = [self._failed(error)]
        self._count(run, replies)
        for reply, response in zip(replies, responses, strict=True):
            reply.response = response

    def _send_off(self, replies: Sequence[Reply], memo: Memo) -> None:
        """Let requests go on by themselves, on the event loop: they begin together, so that their rows meet there."""
        works = []
        for reply in replies:
            try:
                reply.send_off(may_wait=not self._streams)
                request = Request([reply], outlives_execute=True)
            except Exception as error:
                self._refuse(reply, error)
                continue
            run = Run(request, [reply.n_rows], memo, inline=False)
            context = copy_context()
            context.run(begin, run)
            works.append(((self._stream if self._streams else self._answer)(reply, run), context))
        if works:
            self._loop.start(works)

    def _refuse(self, reply: Reply, error: Exception) -> None:
        reply.is_sent_off = False
        reply.response = self._failed(error)
        if self._streams:
            reply.send_instead()

    async def _answer(self, reply: Reply, run: Run) -> None:
        try:
            response = respond(self._checked(await self._graph(run.request), run.request), self._bf16)
        except FAILURES as error:
            response = self._failed(error)
        await self._end(reply, run, response)

    async def _stream(self, reply: Reply, run: Run) -> None:
        """Answer each time that the graph yields, until it ends or the caller has gone."""
        response = None
        try:
            async with aclosing(self._graph(run.request)) as answers:
                async for outputs in answers:
                    await reply.send(respond(_wanted(outputs, run.request), self._bf16))
                    if await run.request.is_cancelled():
                        raise CallerGone("the caller cancelled the request.")
        except FAILURES as error:
            response = self._failed(error)
        await self._end(reply, run, response)

    async def _end(self, reply: Reply, run: Run, response: Any) -> None:
        self._count(run, [reply])
        try:
            await reply.end(response)
        except Exception as error:
            pb_utils.Logger.log_error(f"a response could not be sent: {error}")
        finally:
            self._count_rows(-reply.n_rows)

    def _failed(self, error: BaseException) -> Any:
        return respond_error(error, self._caller_errors)

    def _count(self, run: Run, replies: Sequence[Reply]) -> None:
        """Count what a run has noted, and its requests."""
        if self._metrics:
            elapsed_s = time.perf_counter() - replies[0].started
            note = (self._metrics._add, STAGE_SECONDS, elapsed_s, {"stage": "request"}, SECONDS, len(replies))
            self._metrics._add_later([*run.notes, note])
        else:
            for add, *what in run.notes:
                add(*what)

    def _checked(self, outputs: Arrays, request: Request) -> Arrays:
        """Return those of a graph's outputs that are wanted, if they have the request's rows."""
        wanted = _wanted(outputs, request)
        if self._has_batch:
            for name, array in wanted.items():
                if not array.ndim or len(array) != request.n_rows:
                    got = f"{len(array)} rows" if array.ndim else "no rows"
                    raise ValueError(
                        f"{name}: expected {request.n_rows} rows from the graph, got {got}. Return one for each."
                    )
        return wanted

    def _responses(self, replies: Sequence[Reply], outputs: Arrays) -> list[Any]:
        """Give each request its rows."""
        if len(replies) == 1:
            return [respond(outputs, self._bf16)]
        bounds = pairwise(accumulate((reply.n_rows for reply in replies), initial=0))
        return [respond({name: array[a:b] for name, array in outputs.items()}, self._bf16) for a, b in bounds]


def _wanted(outputs: Arrays, request: Request) -> dict[str, Array]:
    wanted = request.requested_outputs
    return {name: array for name, array in outputs.items() if array is not None and (not wanted or name in wanted)}


def _parts(replies: list[Reply]) -> list[list[Reply]]:
    """Cut a group into parts that a run takes at most."""
    parts: list[list[Reply]] = [[]]
    n_rows = 0
    for reply in replies:
        if parts[-1] and n_rows + reply.n_rows > INLINE_ROWS:
            parts.append([])
            n_rows = 0
        parts[-1].append(reply)
        n_rows += reply.n_rows
    return parts
