"""Load on a server: closed loop, in which a client waits for its answer, or open loop, at a fixed rate."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from dualpath.compare.connection import Connect, Send, over_grpc, reason
from dualpath.compare.sequences import Asked, Sequences, ended, steps

PAUSE_S = 0.01
"""After a failure a client of a closed loop waits, so as not to hammer a server that is down."""
TICK_S = 0.02
N_CONNECTIONS = 8
"""Of an open loop, whose requests outnumber any number of clients."""


@dataclass(frozen=True)
class Contender:
    """What is under load: its requests, sent round and round.

    By default the requests are serialised once and go to Triton as they are, so that the client costs little. A
    contender with work of its own in the client's process brings its own `connect`.

    Attributes:
        name: what reports call it.
        requests: serialised ModelInferRequests, or what `connect`'s function takes.
        groups: a label per request; latencies are kept by it.
        n_rows: rows per request.
        connect: opens a client's connection.
        rows: the numbers of each request's rows in `requests.weighted(...)`, so that answers can be checked.
        kept: takes each answer with its request's number, to be checked after the turn.
        sequences: of requests that a model with state is asked one after the other; a client is in one at a time.
    """

    name: str
    requests: Sequence[Any]
    groups: Sequence[str]
    n_rows: int = 1
    connect: Connect = over_grpc
    rows: Sequence[Sequence[int]] = ()
    kept: Callable[[tuple[int, Any]], None] | None = None
    sequences: Sequences = ()

    def asked(self, numbers: Iterator[int]) -> Iterator[Asked]:
        """Yield a client's requests."""
        if self.sequences:
            return steps(self.sequences, numbers)
        return (Asked(number % len(self.requests)) for number in numbers)


@dataclass
class Turn:
    """What one turn measured.

    Attributes:
        elapsed_s: until the last answer; of a closed loop what makes `rows_per_s` the rate while all clients were at
            work (`answers_per_s`).
        n_rows: rows answered.
        n_errors: requests that failed, time-outs not among them.
        latencies_ms: of the answers, by group.
        timeouts_ms: how long it took to give up, by group. An answer would have taken longer.
        waits_s: when each request that was answered or timed out was to be sent, and how long it waited from then on.
        client_busy: CPU time of this process per second; near 1 the client itself is the bottleneck.
        lag_ms: how late this process's event loop was, the median.
    """

    elapsed_s: float
    n_rows: int
    n_errors: int
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    n_timeouts: int = 0
    timeouts_ms: dict[str, list[float]] = field(default_factory=dict)
    waits_s: list[tuple[float, float]] = field(default_factory=list)
    first_error: str | None = None
    client_busy: float = 0.0
    lag_ms: float = 0.0

    @property
    def rows_per_s(self) -> float:
        """Rows answered per second."""
        return self.n_rows / self.elapsed_s

    def all_ms(self) -> list[float]:
        """Return the latencies of all groups."""
        return [latency for group in self.latencies_ms.values() for latency in group]

    def waits_ms(self, *groups: str) -> list[float]:
        """Return the latencies of these groups or of all, and for each time-out how long it was waited for."""
        both = self.latencies_ms, self.timeouts_ms
        return [wait for group in groups or self.latencies_ms for waits in both for wait in waits.get(group, ())]


async def run_turn(
    url: str,
    contender: Contender,
    concurrency: int,
    duration_s: float,
    skip: int = 0,
    *,
    timeout_s: float | None = None,
    warm_up: bool = False,
) -> Turn:
    """Load one contender with so many clients for a while, over one connection a client.

    Args:
        url: gRPC address.
        concurrency: number of clients.
        duration_s: counts from when all clients are at work. No request starts after it, but those in
            flight are waited for.
        skip: the request to start with, so that turns do not all begin alike.
        timeout_s: how long a client waits for an answer.
        warm_up: let each client send one request more, before it is at work; only its failure counts. Several
            clients always do.
    """
    meter = _Meter(contender, timeout_s)
    numbers = itertools.count(skip)
    answers: list[tuple[float, float]] = []
    n_at_work, begin = 0, math.inf

    async def client(send: Send) -> float:
        nonlocal n_at_work, begin
        asked = contender.asked(numbers)
        # All clients' first requests meet an empty server: counted, the quick ones would make it look faster.
        if warm_up or concurrency > 1:
            await meter.send(send, next(asked))
        sent = time.perf_counter()
        n_at_work += 1
        if n_at_work == concurrency:
            begin = sent
        while True:
            request = next(asked)
            if await meter.send(send, request, sent):
                answers.append((sent, time.perf_counter()))
            else:
                await asyncio.sleep(PAUSE_S)
            if (sent := time.perf_counter()) >= begin + duration_s:
                if request.goes_on:
                    await meter.end_sequence(send, next(asked))
                return sent

    async with _connections(url, contender, concurrency) as sends, meter:
        ends = await asyncio.gather(*map(client, sends))
    if rate := answers_per_s(answers, begin, min(ends)):
        meter.turn.elapsed_s = len(answers) / rate
    return meter.turn


def answers_per_s(answers: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Return the rate of answers in a window in which all clients were at work; 0 if there is no such window.

    Outside it the server has less to do, and whoever it serves then looks fast: rates of clients that begin and end
    apart add up to more than it can do, the more so the less it keeps to the order of requests. An answer counts by the
    share of its time that lies in the window. Whole ones would depend on what just falls into a short window.

    Args:
        answers: of each when its request was sent, and when it came, in seconds.
        begin: when the last client had its first answer.
        end: when the first client had its last answer.
    """
    if begin >= end:
        return 0.0
    shares = (max(0.0, min(came, end) - max(sent, begin)) / (came - sent) for sent, came in answers if came > sent)
    return sum(shares) / (end - begin)


async def run_open_turn(
    url: str,
    contender: Contender,
    rate: float,
    duration_s: float,
    skip: int = 0,
    *,
    timeout_s: float | None = None,
    warm_up: bool = False,
) -> Turn:
    """Send one contender's requests at random times, however many are still unanswered.

    Latency counts from the time at which a request was to be sent, so that neither a server that stalls nor a client
    that is late can hide it. Of those times the event loop meets each up to 1 ms late.

    Args:
        rate: requests per second on average; the times between them are exponential (Poisson arrivals).
        skip: the request to start with; it seeds the times too, so that the contenders of a round get the same.
    """
    meter = _Meter(contender, timeout_s)
    numbers = itertools.count(skip)
    asked = contender.asked(numbers)
    times = arrivals(rate, duration_s, skip)
    async with _connections(url, contender, N_CONNECTIONS) as sends:
        if warm_up:
            await asyncio.gather(*(meter.send(send, next(asked)) for send in sends))
        async with meter, asyncio.TaskGroup() as outstanding:
            for time_s, send in zip(times, itertools.cycle(sends), strict=False):
                intended = meter.started + time_s
                await asyncio.sleep(max(0.0, intended - time.perf_counter()))
                outstanding.create_task(meter.send(send, next(asked), intended))
    return meter.turn


def arrivals(rate: float, duration_s: float, seed: int) -> Iterator[float]:
    """Yield the times within `duration_s` of a Poisson process of so many events per second; at least one."""
    rng = np.random.default_rng(seed)
    times = itertools.accumulate(float(rng.exponential(1 / rate)) for _ in itertools.count())
    first = next(times)
    yield first if first < duration_s else 0.0
    yield from itertools.takewhile(lambda time_s: time_s < duration_s, times)


@asynccontextmanager
async def _connections(url: str, contender: Contender, number: int) -> AsyncIterator[list[Send]]:
    async with AsyncExitStack() as stack:
        yield await asyncio.gather(*(stack.enter_async_context(contender.connect(url)) for _ in range(number)))


class _Meter:
    """Sends a contender's requests and keeps count. Inside its block the clock runs."""

    def __init__(self, contender: Contender, timeout_s: float | None) -> None:
        self.turn = Turn(0.0, 0, 0, {group: [] for group in contender.groups})
        self.started = 0.0
        self._contender = contender
        self._timeout_s = timeout_s
        self._lags_ms: list[float] = []

    async def __aenter__(self) -> None:
        self._ticking = asyncio.create_task(self._tick())
        self._cpu_s = time.process_time()
        self.started = time.perf_counter()

    async def __aexit__(self, *exception: object) -> None:
        self.turn.elapsed_s = time.perf_counter() - self.started
        self.turn.client_busy = (time.process_time() - self._cpu_s) / self.turn.elapsed_s
        self._ticking.cancel()
        if self._lags_ms:
            self.turn.lag_ms = float(np.median(self._lags_ms))

    async def send(self, send: Send, asked: Asked, since: float | None = None) -> bool:
        """Send a request, wait for its answer, and say whether it came. Without `since` an answer does not count."""
        contender, turn = self._contender, self.turn
        index, more = asked.number, asked.more
        request = contender.requests[index]
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await send(request + more if more else request)
            if contender.kept:
                contender.kept((index, answer))
        except TimeoutError:
            answered = False
        except Exception as error:
            if not isinstance(error, grpc.aio.AioRpcError) or error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                turn.n_errors += 1
                turn.first_error = turn.first_error or reason(error)
                return False
            answered = False
        else:
            answered = True
        turn.n_timeouts += not answered
        if since is not None:
            wait_s = time.perf_counter() - since
            by_group = turn.latencies_ms if answered else turn.timeouts_ms
            by_group.setdefault(contender.groups[index], []).append(wait_s * 1e3)
            turn.waits_s.append((since - self.started, wait_s))
            turn.n_rows += contender.n_rows * answered
        return answered

    async def end_sequence(self, send: Send, asked: Asked) -> None:
        """End a sequence by its next step, uncounted. Left open, it would hold its slot of the server."""
        with suppress(Exception):
            async with asyncio.timeout(self._timeout_s):
                await send(self._contender.requests[asked.number] + ended(asked).more)

    async def _tick(self) -> None:
        while True:
            slept = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self._lags_ms.append((time.perf_counter() - slept - TICK_S) * 1e3)
