"""Ask two models and check every answer: each row alone, in shuffled batches, and among other requests."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np

from dualpath.compare.agreement import Agreement, Answer
from dualpath.compare.connection import HTTPRefusal, reason
from dualpath.compare.inputs import Row
from dualpath.compare.interruptible import interruptibly
from dualpath.compare.requests import Ask, shuffled_batches
from dualpath.compare.result import Result, n_rows
from dualpath.compare.run import OnProgress
from dualpath.compare.sequences import Asked, Sequences, ended, run_sequence
from dualpath.errors import UserError

N_LATE = 5
"""After so many time-outs of a contender in a row, no further row is sent."""
N_SHUFFLES = 3
"""Of each row, for each size of batch."""


@dataclass(frozen=True)
class SharedRequests:
    """What rows are asked in, besides alone.

    Attributes:
        batches: rows per request.
        concurrency: requests at a time, of any size up to the largest of `batches`.
        duration_s: for each of them; what is not asked until then is left out.
    """

    batches: Sequence[int] = ()
    concurrency: int = 1
    duration_s: float = 10.0
    seed: int = 0


class Asking:
    """Puts every row through a baseline and another contender, alone and with others, and has all answers judged.

    Args:
        result: gets the notes; it has failed if one of them failed on a row, or the server went away.
        sequences: the rows of each, for models that keep state; a row alone is then one in its sequence alone.

    Attributes:
        answers: the numbers of the rows that both answered alone, with both answers.
    """

    def __init__(
        self,
        result: Result,
        agreement: Agreement,
        names: tuple[str, str],
        rows: Sequence[Row],
        shared: SharedRequests = SharedRequests(),
        sequences: Sequences = (),
    ) -> None:
        self.answers: list[tuple[int, tuple[Answer, Answer]]] = []
        self._result, self._agreement, self._names, self._rows = result, agreement, names, rows
        self._shared = shared
        self._sequences = sequences
        self._asks: Sequence[Ask] = ()
        self._rng = np.random.default_rng(shared.seed)
        self._failed_alone: dict[str, list[str]] = {name: [] for name in names}
        self._failed: dict[str, list[str]] = {name: [] for name in names}
        self._asked: Counter[str] = Counter()
        self._longest_s = 0.0  # a row's time in the largest batch
        self._judged = False

    def run(
        self,
        connects: Sequence[Callable[[], AbstractAsyncContextManager[Ask]]],
        timeout_s: float | None = None,
        gone: Callable[[], str | None] = lambda: None,
        on_progress: OnProgress = lambda text, fraction: None,
    ) -> bool:
        """Ask; once. After N_LATE time-outs in a row the rest is left out.

        On Ctrl-C what was answered until then is judged, and KeyboardInterrupt goes on.

        Args:
            connects: `Wire.asking` of both, the baseline's first.
            timeout_s: of each request.
            gone: says why the server is gone, or None; asked after a failure.
            on_progress: called before each request.
        Returns:
            Whether the server is still there.
        Raises:
            UserError: both refuse a row as invalid.
        """
        self._gone, self._on_progress, self._timeout_s = gone, on_progress, timeout_s

        async def ask_all() -> bool:
            async with AsyncExitStack() as stack:
                self._asks = [await stack.enter_async_context(connect()) for connect in connects]
                return await self._alone() and await self._in_batches() and await self._at_once()

        try:
            return interruptibly(ask_all())
        except KeyboardInterrupt:
            self._note(f"Interrupted after {len(self.answers)} of {len(self._rows)} inputs.")
            raise
        finally:
            self._settle()

    async def _alone(self) -> bool:
        """Ask each row in a request of its own, both contenders at once."""
        n_late = dict.fromkeys(self._names, 0)  # in a row
        for number, more in self._lone_requests():
            row = self._rows[number]
            self._on_progress(f"Comparing answers: {number + 1} of {len(self._rows)}", number / len(self._rows))
            answers, errors = await self._both([number], more)
            for name in self._names:
                n_late[name] = n_late[name] + 1 if isinstance(errors.get(name), TimeoutError) else 0
            if not errors:
                self.answers.append((number, answers))
                continue
            _refuse_invalid(row, errors)
            for name, error in errors.items():
                self._failed_alone[name].append(f"{row.where}: {reason(error)}")
            if self._is_gone(f"at input {number + 1} of {len(self._rows)}"):
                return False
            if late := [name for name in self._names if n_late[name] == N_LATE]:
                times = f"{late[0]} gave none in time, {N_LATE} times in a row"
                self._note(f"Answers were compared up to input {number + 1} of {len(self._rows)}: {times}.")
                self._shared = SharedRequests()
                break
        self._judge_alone()
        return True

    def _lone_requests(self) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
        """Yield each row, and for each contender what makes it a step of a sequence."""
        if not self._sequences:
            yield from ((number, (b"", b"")) for number in range(len(self._rows)))
        for sequence in self._sequences:
            for of_a, of_b in zip(run_sequence(sequence), run_sequence(sequence), strict=True):
                yield of_a.number, (of_a.more, of_b.more)

    async def _in_batches(self) -> bool:
        """Ask batches one after the other, each row beside several others and at several places."""
        for size in self._shared.batches:
            if size == 1 or not self.answers:
                continue
            way, end = f"in a batch of {size}", time.perf_counter() + self._shared.duration_s
            batches = [it for _ in range(N_SHUFFLES) for it in shuffled_batches(self._rows, size, self._rng)]
            for number, numbers in enumerate(batches):
                self._on_progress(f"Comparing answers {way}: {number + 1} of {len(batches)}", number / len(batches))
                started = time.perf_counter()
                answers, errors = await self._both(numbers)
                for name, answer in zip(self._names, answers, strict=True):
                    self._take(name, numbers, answer, way)
                if errors and self._is_gone(way):
                    return False
                self._longest_s = (time.perf_counter() - started) / size
                self._asked[way] += 1
                if time.perf_counter() > end and number + 1 < len(batches):
                    self._note(f"Answers {way} were compared in {number + 1} of {len(batches)} requests: no time.")
                    break
        return True

    async def _at_once(self) -> bool:
        """Ask one contender after the other, many requests of any size at a time."""
        n_clients, largest = self._shared.concurrency, max(self._shared.batches, default=1)
        if n_clients == 1 or not self.answers:
            return True
        if self._longest_s:  # what is in flight when the time is over has to be waited for
            largest = max(1, min(largest, int(self._shared.duration_s / self._longest_s / n_clients)))
        way = f"among {n_clients} requests at once"
        sizes = [1, *self._rng.integers(1, largest + 1, 2 * N_SHUFFLES - 1).tolist(), largest]
        # What a client asks one after the other: one request, or those of a sequence.
        queue = [[it] for size in sizes for it in shuffled_batches(self._rows, size, self._rng)]
        if self._sequences:
            queue = [[[number] for number in it] for it in self._sequences] * N_SHUFFLES
            way = f"among {n_clients} sequences at once"
        order = [queue[index] for index in self._rng.permutation(len(queue))]
        for name, ask in zip(self._names, self._asks, strict=True):
            end, waiting = time.perf_counter() + self._shared.duration_s, iter(order)

            async def client(name: str = name, ask: Ask = ask, end: float = end, waiting: Any = waiting) -> None:
                for requests in waiting:
                    steps = run_sequence(range(len(requests))) if self._sequences else [Asked(0)]
                    for step, numbers in zip(steps, requests, strict=True):
                        if is_late := time.perf_counter() > end:
                            if step.number == 0:
                                return
                            step = ended(step)  # its answer may be another than that of the step in its place
                        [answer] = await asyncio.gather(self._ask(ask, numbers, step.more), return_exceptions=True)
                        if is_late:
                            return
                        self._take(name, numbers, answer, way)
                        self._asked[way] += 1

            self._on_progress(f"Comparing answers {way}: {name}", 0.0)
            async with asyncio.TaskGroup() as clients:
                for _ in range(n_clients):
                    clients.create_task(client())
            if self._failed[name] and self._is_gone(way):
                return False
        return True

    def _settle(self) -> None:
        """Judge what was answered, and say what failed."""
        self._judge_alone()
        for name in self._names:
            if failed := self._failed_alone[name]:
                self._note(f"{name} failed on {len(failed)} of {len(self._rows)} inputs, first on {failed[0]}")
            if failed := self._failed[name]:
                self._note(f"{name} failed on {len(failed)} requests with others, first {failed[0]}")
            self._result.failed |= bool(self._failed_alone[name] or self._failed[name])
        said = [n_rows(len(self.answers)) + " alone", *(f"{n:,} requests {how}" for how, n in self._asked.items())]
        self._result.environment["answers"] = ", ".join(said)

    async def _both(
        self, numbers: Sequence[int], more: tuple[bytes, bytes] = (b"", b"")
    ) -> tuple[tuple[Any, Any], dict[str, BaseException]]:
        asked = (self._ask(ask, numbers, part) for ask, part in zip(self._asks, more, strict=True))
        a, b = await asyncio.gather(*asked, return_exceptions=True)
        errors = {name: it for name, it in zip(self._names, (a, b), strict=True) if isinstance(it, BaseException)}
        return (a, b), errors

    async def _ask(self, ask: Ask, numbers: Sequence[int], more: bytes) -> Answer:
        async with asyncio.timeout(self._timeout_s):
            return await ask(numbers, more)

    def _judge_alone(self) -> None:
        if self._judged:
            return
        self._judged = True
        for number, (baseline, _) in self.answers:
            self._agreement.learn(number, baseline)
        for number, (_, other) in self.answers:
            self._agreement.judge(self._names[1], [number], other)

    def _take(self, name: str, numbers: Sequence[int], answer: Any, way: str) -> None:
        if isinstance(answer, BaseException):
            rows = self._rows[numbers[0]].where
            self._failed[name].append(f"{way} that begins with {rows}: {reason(answer)}")
        else:
            self._agreement.judge(name, numbers, answer, way)

    def _is_gone(self, when: str) -> bool:
        if why := self._gone():
            self._note(f"The server went away ({why}) {when}.")
            self._result.failed = True
        return bool(why)

    def _note(self, note: str) -> None:
        self._result.notes.append(note)


def _refuse_invalid(row: Row, errors: Mapping[str, BaseException]) -> None:
    """Tell a bad row, which no model takes, from a model that fails."""
    if len(errors) == 2 and all(map(_is_callers_fault, errors.values())):
        raise UserError(f"{row.where}: expected a valid row, got: {reason(next(iter(errors.values())))} Leave it out.")


def _is_callers_fault(error: BaseException) -> bool:
    if isinstance(error, HTTPRefusal):
        return error.status == 400
    return isinstance(error, grpc.aio.AioRpcError) and error.code() == grpc.StatusCode.INVALID_ARGUMENT
