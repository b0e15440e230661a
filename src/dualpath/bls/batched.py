"""Send rows of different requests to a child in batches: what arrived together, and what waits while it is busy."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np

from dualpath.bls.calls import NOT_IN_TIME, Called, Carried, Outputs, chosen, in_thread, leave
from dualpath.bls.errors import ChildError, ChildLate, ChildUnavailable, ConfigError
from dualpath.bls.metrics import SIZES
from dualpath.bls.pace import CallUnderWay, Cutter
from dualpath.bls.request import Request
from dualpath.bls.run import Leave, Run, blocking, current_run
from dualpath.bls.tensors import Array, concatenate
from dualpath.bls.waiting import Group, WaitingRow, WaitingRows, groups_of

MAX_WAITING_ROWS = 16_384
"""Rows that wait at most while nothing tells how long that takes."""

FORGET_S = 1.0
"""How long rows count as on their way to the event loop, if they do not come."""

SURE = 0.7
"""Share of a request's remaining time that its answer may be expected to take. What is expected is a mean, and beyond
capacity every request that is accepted is at this bound."""


@dataclass(eq=False, repr=False)
class BatchedChild(Called):
    """A model that this one calls with rows, those of different requests together.

    Rows of requests that arrived together leave together. While the child is busy (as many calls in flight as
    `in_flight`) rows wait; when a call comes back, the next chunk leaves: the row that has waited longest, and those
    nearest to it in length among the next in line, so that padding is small. If a merged call fails, each request's
    rows are tried again by themselves, unless the child is unavailable. Rows of a request that has expired, or that
    its caller has cancelled, do not leave. A request whose rows would wait too long is refused at once.

    A call carries the ids of its requests, joined by commas; the longest of their remaining times, or none if one has
    none; the first trace. Rows whose forwarded parameters differ are not merged.

    Args:
        name, outputs, version, retry, forward_parameters, bf16_inputs, device, early_return, metrics: as for `Child`.
            Every output has as many rows as went in.
        collate: turns a chunk's rows into inputs by name, padding them to one length if they need it. Without it, a row
            is a dict of arrays by input name, and the arrays are stacked.
        in_flight: calls at a time; None learns from the calls' times how many pay.
        chunk_rows: rows in a call while the child is busy; None learns how many pay.
        max_rows: rows in a call, at most: the child's `max_batch_size`.
        max_wait_s: how long the rows ahead of a request may take for it to be accepted.
    """

    collate: Callable[[Sequence[Any]], Mapping[str, Any]] | None = None
    _: KW_ONLY
    in_flight: int | None = None
    chunk_rows: int | None = None
    max_rows: int | None = None
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._collate = self.collate or stack
        self._max_rows = self.max_rows or self.chunk_rows or 512
        self._cutter = Cutter(self.in_flight, self.chunk_rows, self._max_rows)
        self._row_s: float | None = None  # seconds in which the child takes a row, calls side by side
        self._call_s = 0.0  # seconds that a call takes
        self._waiting = WaitingRows()
        self._callers: set[asyncio.Task[Any]] = set()
        self._under_way: list[CallUnderWay] = []
        self._on_the_way: deque[float] = deque()  # when each row was sent to the event loop, until it waits there

    async def rows(self, rows: Sequence[Any]) -> Any:
        """Have rows answered.

        Args:
            rows: at least one; what `collate` takes.
        Returns:
            As many rows of the child's output, in order; or arrays by name if several outputs were named.
        Raises:
            ChildFailed: the child failed with these rows.
            ChildUnavailable: it cannot be reached, or too many rows wait for it.
            ChildLate: the request's timeout ended first, or would.
            CallerGone: the caller cancelled the request.
            ConfigError: the child has no such input or output, or its answer another number of rows.
        """
        run = current_run()
        if run is None:
            raise RuntimeError(
                f"{self.name}.rows: expected code that a Pipeline's graph calls, got other code. Call it there."
            )
        if not len(rows):
            raise ValueError(f"{self.name}: expected at least one row, got none. Leave such a call out.")
        if known := run.memo.recall(self, rows):
            answers = known
            if self.metrics:
                self.metrics._observe_stage(self.name, 0.0)
        elif run.inline:
            return self._given(await self._inline(run, rows))
        else:
            answers = await self._queued(run, rows)
        if run.inline:
            run.memo.note(self, rows, answers)
        outputs = {name: concatenate([answer[name] for answer in answers]) for name in answers[0]}
        return self._given(outputs)

    async def _inline(self, run: Run, rows: Sequence[Any]) -> Outputs:
        """Send all rows in one call, if it takes a moment only."""
        if error := run.memo.unavailable.get(self):
            raise error
        try:
            if len(rows) > self._max_rows:
                raise leave()
            self._leave_if_slow(len(rows))
        except Leave:
            self._refuse_inline(run, len(rows))
            raise
        started = time.perf_counter()
        carried = Carried.by([run.request], self.forward_parameters)
        try:
            ask = partial(self._ask, self._collate(rows), len(rows), carried, CallUnderWay(1))
            outputs: Outputs = await blocking(ask)
        except ChildError as error:
            raise self._failed_inline(run, error) from None
        run.memo.note(self, rows, outputs, partial(_by_row, n_rows=len(rows)))
        if self.metrics:
            self.metrics._observe_stage(self.name, time.perf_counter() - started)
        return outputs

    def _ask(self, inputs: Mapping[str, Any], n_rows: int, carried: Carried, call: CallUnderWay) -> Outputs:
        """Call the child and learn from it. Blocks."""
        started = time.perf_counter()
        outputs = self._exec(inputs, carried)
        elapsed_s = time.perf_counter() - started
        for name, rows in outputs.items():
            if not rows.ndim or len(rows) != n_rows:
                got = f"{len(rows)} rows" if rows.ndim else "no batch dimension"
                raise self._misconfigured(f"expected {n_rows} rows in output {name!r}, got {got}.")
        self._pace.note(n_rows, elapsed_s)
        if call.n_most == call.n_first:  # none came later: it took as long as all of them together
            self._cutter.note(n_rows, call.n_most, elapsed_s)
        row_s = elapsed_s / (n_rows * call.n_most)
        self._call_s = elapsed_s if self._row_s is None else 0.9 * self._call_s + 0.1 * elapsed_s
        self._row_s = row_s if self._row_s is None else 0.9 * self._row_s + 0.1 * row_s
        if self.metrics:
            self.metrics._add_later([(self.metrics._add, "chunk_rows", n_rows, {"child": self.name}, SIZES)])
        return outputs

    async def _queued(self, run: Run, rows: Sequence[Any]) -> list[Any]:
        """Let rows wait for their turn, on the event loop, and return each one's answer."""
        request: Request = run.request
        with suppress(IndexError):  # forgotten by now: they took long
            for _ in rows:
                self._on_the_way.popleft()
        if refusal := self._refusal(request, len(rows), len(self._waiting)):
            raise self._counted(refusal)
        kind = tuple(chosen(request.parameters, self.forward_parameters).items())
        group = Group(request, kind, len(rows), run.attempts.pop(self, 0))
        self._waiting.add(rows, group)
        self._start_calls()
        started = time.perf_counter()
        try:
            async with asyncio.timeout_at(request.deadline):  # the loop's clock is time.monotonic
                return await group.answer
        except TimeoutError:
            raise self._late() from None
        finally:
            if self.metrics:
                self.metrics._observe_stage(self.name, time.perf_counter() - started)

    def _refuse_inline(self, run: Run, n_rows: int) -> None:
        """Refuse what would be refused on the event loop, from which each answer costs a round trip to the server."""
        now, sent = time.monotonic(), self._on_the_way
        with suppress(IndexError):  # none is left, or the event loop took it just now
            while sent[0] < now - FORGET_S:
                sent.popleft()
        is_shared = len(run.n_rows) > 1
        # Of requests that share a run, the last one waits for the others.
        n_ahead = len(self._waiting) + len(sent) + (n_rows if is_shared else 0)
        if refusal := self._refusal(run.request, n_rows, n_ahead):
            raise leave(apart=True) if is_shared else self._counted(refusal)
        sent.extend([now] * n_rows)

    def _refusal(self, request: Request, n_rows: int, n_ahead: int) -> ChildError | None:
        """Return the error of a request that would wait too long behind so many rows."""
        wait_s = n_ahead * (self._row_s or 0.0)
        remaining_s = request.remaining_s()
        if remaining_s == 0:
            return ChildLate(self.name, NOT_IN_TIME)
        # Behind rows that wait: the rest of a call that is under way, and its own.
        answer_s = wait_s + 1.5 * self._call_s if wait_s else 0.0
        if remaining_s is not None and answer_s >= SURE * remaining_s:
            return ChildLate(
                self.name,
                f"overloaded: expected an answer within the request's timeout, got a queue of {wait_s:.1f} s; "
                f"retry in {max(1, math.ceil(answer_s - SURE * remaining_s))} s.",
            )
        if wait_s > self.max_wait_s or n_ahead + n_rows > MAX_WAITING_ROWS > n_rows:
            return ChildUnavailable(
                self.name,
                f"overloaded: expected a queue of at most {self.max_wait_s:g} s, got one of {wait_s:.1f} s; "
                f"retry in {max(1, math.ceil(wait_s - self.max_wait_s))} s.",
            )
        return None

    def _start_calls(self) -> None:
        """Start callers for the waiting rows. Each takes its first chunk a moment later, when all requests that arrived
        together have brought their rows."""
        in_flight = self._cutter.in_flight(len(self._waiting))
        while len(self._callers) < in_flight and len(self._callers) - len(self._under_way) < len(self._waiting):
            self._callers.add(asyncio.get_running_loop().create_task(self._call_while_rows_wait()))

    async def _call_while_rows_wait(self) -> None:
        caller = asyncio.current_task()
        assert caller
        try:
            while chunk := self._waiting.take(self._cutter, len(self._under_way)):
                call = CallUnderWay(len(self._under_way) + 1)
                self._under_way.append(call)
                for each in self._under_way:
                    each.n_most = max(each.n_most, call.n_first)
                try:
                    await self._run(chunk, call)
                finally:
                    self._under_way.remove(call)
        finally:
            self._callers.discard(caller)

    async def _run(self, chunk: list[WaitingRow], call: CallUnderWay) -> None:
        try:
            if asking := [group for group in groups_of(chunk) if group.has_waited()]:
                await asyncio.gather(*(group.drop_if_cancelled() for group in asking))
            if chunk := [row for row in chunk if not row.is_settled()]:
                await self._answer(chunk, call)
        except Exception as error:
            for group in groups_of(chunk):
                group.fail(error)

    async def _answer(self, chunk: list[WaitingRow], call: CallUnderWay) -> None:
        groups = groups_of(chunk)
        requests = [group.request for group in groups]
        try:
            attempt = max(group.attempt for group in groups)
            outputs = await self._with_retries(partial(self._call, chunk, requests, call), requests, attempt)
        except Exception as error:
            if len(groups) == 1 or isinstance(error, (ChildUnavailable, ConfigError)):
                for group in groups:
                    group.fail(error)
                return
            for group in groups:
                if not group.answer.done():
                    await self._answer([row for row in chunk if row.group is group], call)
            return
        for row, answer in zip(chunk, _by_row(outputs, len(chunk)), strict=True):
            row.group.fill(row.index, answer)

    async def _call(self, chunk: list[WaitingRow], requests: list[Request], call: CallUnderWay) -> Outputs:
        inputs = self._collate([row.row for row in chunk])
        carried = Carried.by(requests, self.forward_parameters)
        trace = next((request.trace for request in requests if request.trace and not request.trace.closed), None)
        if trace is None:
            return await in_thread(partial(self._ask, inputs, len(chunk), carried, call))
        carried = carried._replace(trace=trace.raw)
        return await trace.lend(in_thread(partial(self._ask, inputs, len(chunk), carried, call)))


def stack(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Stack rows, each a dict of arrays by input name, along a new first dimension."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _by_row(outputs: Outputs, n_rows: int) -> Iterator[Outputs]:
    """Give the rows of several outputs, each as a dict of arrays of one row."""
    return ({name: rows[index : index + 1] for name, rows in outputs.items()} for index in range(n_rows))
