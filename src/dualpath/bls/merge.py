"""Merge while busy: rows of different requests for the same child wait only while it is busy, then leave together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.child import Child
from dualpath.bls.errors import CallerGone, ChildLate, ChildUnavailable
from dualpath.bls.metrics import SIZES, Metrics
from dualpath.bls.request import Request

WINDOW_CHUNKS = 4
"""How many chunks' worth of waiting rows a chunk is chosen from: more means less padding, and longer waits."""

SLOW_S = 0.005
"""How long a child's calls take, on average, for requests that wait for it to be answered later."""

ASK_AFTER_S = 0.005
"""How long rows wait before their chunk asks whether their caller is still there."""


class MergingChild(Child):
    """A child whose rows, of whichever request, wait only while it is busy.

    Busy means: as many calls in flight as `in_flight`. When a call comes back, the next chunk leaves: the row that has
    waited longest, so that none starves, and those nearest to it in length among the next in line, so that padding is
    small. A chunk that fails is tried again, each request's rows by themselves, unless the child is not there. Rows of
    a request that has expired, or that its caller has cancelled, do not leave.

    All of it runs on the event loop's thread, so there are no locks.

    Args:
        name, version, metrics: as for `Child`.
        output: the output to ask for: as many rows as went in.
        collate: turns a chunk's rows into inputs by name, padding them to one length where they need it.
        in_flight: calls at a time: as many as the child has instances.
        chunk_rows: rows in a call, at most.
        slow: whether requests that wait for this child are answered later, so that they do not keep `execute`. None
            means: while its calls take longer than 5 ms.
    """

    def __init__(
        self,
        name: str,
        output: str,
        collate: Callable[[Sequence[Any]], Mapping[str, Any]],
        *,
        in_flight: int,
        chunk_rows: int,
        slow: bool | None = None,
        version: int = -1,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(name, (output,), version, metrics)
        self._collate = collate
        self._in_flight = in_flight
        self._chunk_rows = chunk_rows
        self._slow = slow
        self._call_s = math.inf  # how long a call takes, averaged over the last few
        self._waiting: deque[_Row] = deque()
        self._callers: set[asyncio.Task[Any]] = set()
        self._n_calling = 0

    async def rows(self, request: Request, rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Have one request's rows answered: as many rows of the child's output, in order.

        Raises:
            ChildFailed: the child failed with these rows, or (ChildUnavailable) is not there.
            ChildLate: the request's timeout ended first.
            CallerGone: the caller cancelled the request.
        """
        if not len(rows):
            raise ValueError(f"{self.name}: expected at least one row, got none.")
        if request.deadline is not None and time.monotonic() >= request.deadline:
            raise self._late()
        if self._is_slow():
            request.answer_later()
        group = _Group(request, len(rows), asyncio.get_running_loop().create_future())
        self._waiting.extend([_Row(row, index, group) for index, row in enumerate(rows)])
        self._start_calls()
        started = time.perf_counter()
        try:
            return np.stack(await _within(request.deadline, group.answer))
        except TimeoutError:
            raise self._late() from None
        finally:
            if self._metrics:
                self._metrics.observe("stage_seconds", time.perf_counter() - started, stage=self.name)

    def _late(self) -> ChildLate:
        self._count("late")
        return ChildLate(f"{self.name}: expected an answer within the request's timeout, got none.")

    def _is_slow(self) -> bool:
        return self._call_s > SLOW_S if self._slow is None else self._slow

    def _start_calls(self) -> None:
        """Start callers for the waiting rows. Each takes its first chunk a moment later, when all requests that arrived
        together have brought their rows."""
        while len(self._callers) < min(self._in_flight, len(self._waiting)):
            self._callers.add(asyncio.get_running_loop().create_task(self._call_while_rows_wait()))

    async def _call_while_rows_wait(self) -> None:
        caller = asyncio.current_task()
        assert caller
        try:
            while chunk := self._take():
                self._n_calling += 1
                try:
                    await self._run(chunk)
                finally:
                    self._n_calling -= 1
        finally:
            self._callers.discard(caller)

    def _take(self) -> list[_Row]:
        """Take the next chunk out of the queue, sorted by length; no more than leaves rows for every idle instance."""
        while self._waiting and self._waiting[0].is_settled():
            self._waiting.popleft()
        n_rows = min(self._chunk_rows, -(-len(self._waiting) // (self._in_flight - self._n_calling)))
        window = [row for row in islice(self._waiting, WINDOW_CHUNKS * self._chunk_rows) if not row.is_settled()]
        if len(window) > n_rows:
            oldest = window[0]
            window = sorted(window, key=lambda row: abs(row.length - oldest.length))[:n_rows]
        taken = set(map(id, window))
        head = [self._waiting.popleft() for _ in range(min(len(self._waiting), WINDOW_CHUNKS * self._chunk_rows))]
        self._waiting.extendleft(row for row in reversed(head) if id(row) not in taken)
        return sorted(window, key=lambda row: row.length)

    async def _run(self, chunk: list[_Row]) -> None:
        try:
            if asking := [group for group in _groups(chunk) if group.has_waited()]:
                await asyncio.gather(*(group.drop_if_cancelled() for group in asking))
            if chunk := [row for row in chunk if not row.is_settled()]:
                await self._answer(chunk)
        except Exception as error:
            for group in _groups(chunk):
                group.fail(error)

    async def _answer(self, chunk: list[_Row]) -> None:
        groups = _groups(chunk)
        if self._metrics:
            self._metrics.observe("chunk_rows", len(chunk), SIZES, child=self.name)
        try:
            started = time.perf_counter()
            outputs = await self.call(self._collate([row.row for row in chunk]), groups[0].request.trace)
            elapsed_s = time.perf_counter() - started
            known_s = elapsed_s if math.isinf(self._call_s) else self._call_s
            self._call_s = 0.8 * known_s + 0.2 * elapsed_s
            answers = outputs[self.outputs[0]]
            if len(answers) != len(chunk):
                raise ValueError(f"{self.name}: expected {len(chunk)} rows in the answer, got {len(answers)}.")
        except Exception as error:
            if len(groups) == 1 or isinstance(error, ChildUnavailable):
                for group in groups:
                    group.fail(error)
                return
            for group in groups:
                if not group.answer.done():
                    await self._answer([row for row in chunk if row.group is group])
            return
        for row, answer in zip(chunk, answers, strict=True):
            row.group.fill(row.index, answer)


async def _within(deadline: float | None, answer: asyncio.Future[list[Any]]) -> list[Any]:
    if deadline is None:
        return await answer
    async with asyncio.timeout_at(deadline):  # the loop's clock is time.monotonic
        return await answer


class _Group:
    """The rows of one request that wait for one child."""

    def __init__(self, request: Request, n_rows: int, answer: asyncio.Future[list[Any]]) -> None:
        self.request = request
        self.answer = answer
        self._rows: list[Any] = [None] * n_rows
        self._n_open = n_rows
        self._since = time.monotonic()

    def has_waited(self) -> bool:
        """Tell whether it is time to ask for the caller, which costs a round trip."""
        return time.monotonic() - self._since > ASK_AFTER_S

    async def drop_if_cancelled(self) -> None:
        """Fail the group if its caller has gone."""
        if await self.request.is_cancelled():
            self.fail(CallerGone("the caller cancelled the request."))

    def fill(self, index: int, row: Any) -> None:
        self._rows[index] = row
        self._n_open -= 1
        if self._n_open == 0 and not self.answer.done():
            self.answer.set_result(self._rows)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Row:
    __slots__ = ("group", "index", "length", "row")

    def __init__(self, row: npt.NDArray[Any], index: int, group: _Group) -> None:
        self.row, self.length, self.index, self.group = row, len(row), index, group

    def is_settled(self) -> bool:
        """Tell whether the row's request needs it no more: it failed, expired or was cancelled."""
        return self.group.answer.done()


def _groups(chunk: list[_Row]) -> list[_Group]:
    return list(dict.fromkeys(row.group for row in chunk))
