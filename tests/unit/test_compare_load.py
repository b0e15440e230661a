"""Closed and open loops, on a virtual clock; over gRPC only if it matters."""

import asyncio
import os
import signal
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
import virtual_time

from dualpath.compare import interruptible, load
from dualpath.compare.load import Contender, arrivals, run_open_turn, run_turn


@pytest.fixture
def run(monkeypatch):
    return lambda coroutine: virtual_time.run(coroutine, load, monkeypatch)


def contender(send, n_requests=1, n_rows=1, groups=None):
    @asynccontextmanager
    async def connect(url):
        yield send

    return Contender("model", range(n_requests), groups or ["all"] * n_requests, n_rows, connect)


def sleeper(seconds):
    return lambda request: asyncio.sleep(seconds)


def test_closed_loop_counts_rows_until_each_clients_last_answer(run):
    turn = run(run_turn("", contender(sleeper(0.4), n_rows=8), concurrency=3, duration_s=1))
    assert turn.n_rows == 3 * 3 * 8  # each client starts at 0, 0.4 and 0.8 s
    assert turn.elapsed_s == pytest.approx(1.2)
    assert turn.all_ms() == pytest.approx([400] * 9)
    assert (turn.n_errors, turn.n_timeouts, turn.first_error) == (0, 0, None)


def test_long_tails_do_not_look_slow_in_short_turns(run):
    rng = np.random.default_rng(0)
    for seconds in (lambda: 0.3, lambda: rng.exponential(0.3), lambda: rng.choice([0.008, 0.592])):
        send = lambda request, seconds=seconds: asyncio.sleep(seconds())  # noqa: E731
        turns = [run(run_turn("", contender(send), concurrency=16, duration_s=2)) for _ in range(60)]
        assert np.mean([turn.rows_per_s for turn in turns]) == pytest.approx(16 / 0.3, rel=0.03)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 2.0])
def test_clients_that_queue_are_counted_from_a_full_server_on(run, duration_s):
    server = None

    async def send(request):  # one at a time, 20 a second
        nonlocal server
        server = server or asyncio.Lock()
        async with server:
            await asyncio.sleep(0.05)

    turn = run(run_turn("", contender(send), concurrency=16, duration_s=duration_s))
    assert turn.rows_per_s == pytest.approx(20, rel=0.03)  # the first answers of all, from an empty server: up to 68
    assert np.median(turn.all_ms()) == pytest.approx(800, rel=0.03)


class Shared:
    """Does 20 requests' work a second, on all that are there at once; each wants 1 to 3 shares of it."""

    def __init__(self, rng):
        self._rng = rng
        self._n_there = 0

    async def __call__(self, request):
        self._n_there += 1
        work_s = self._rng.choice([1, 3]) * 0.025
        while work_s > 0:
            await asyncio.sleep(0.01 * self._n_there)
            work_s -= 0.01
        self._n_there -= 1


class Drawn:
    """Answers 20 requests a second, one at a time, and draws lots for who is next."""

    def __init__(self, rng):
        self._rng = rng
        self._waiting = []
        self._busy = False

    async def __call__(self, request):
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        if not self._busy:
            self._next()
        await place

    def _next(self):
        self._busy = bool(self._waiting)
        if self._waiting:
            place = self._waiting.pop(self._rng.integers(len(self._waiting)))
            asyncio.get_running_loop().call_later(0.05, self._done, place)

    def _done(self, place):
        place.set_result(None)
        asyncio.get_running_loop().call_soon(self._next)  # once the client has sent on


@pytest.mark.parametrize("kind", [Shared, Drawn])
def test_a_server_that_does_not_keep_to_the_order_of_requests_does_not_look_fast(run, kind):
    # Rates of clients that begin and end apart added up to 1.1 and 1.6 times what the server can do.
    rng = np.random.default_rng(0)
    turns = [run(run_turn("", contender(kind(rng)), concurrency=16, duration_s=2)) for _ in range(40)]
    few = [run(run_turn("", contender(kind(rng)), concurrency=16, duration_s=60)) for _ in range(4)]
    capacity = np.mean([turn.rows_per_s for turn in few])
    assert np.mean([turn.rows_per_s for turn in turns]) == pytest.approx(capacity, rel=0.05)


def test_answers_count_by_their_share_of_the_time_in_which_all_clients_were_at_work():
    assert load.answers_per_s([(0, 2), (2, 4), (1, 3), (3, 7)], begin=1, end=5) == (0.5 + 1 + 1 + 0.5) / 4
    assert load.answers_per_s([(0, 2), (6, 8)], begin=2, end=6) == 0
    assert load.answers_per_s([(0, 2)], begin=2, end=2) == load.answers_per_s([], 0, 1) == 0


def test_requests_go_round_from_the_one_to_start_with_and_latencies_are_kept_by_group(run):
    asked = []

    async def send(request):
        asked.append(request)
        await asyncio.sleep(0.1 * (request + 1))

    turn = run(run_turn("", contender(send, 3, groups=["a", "b", "a"]), 1, 0.75, skip=2))
    assert asked == [2, 0, 1, 2]
    assert turn.latencies_ms == {"a": pytest.approx([300, 100, 300]), "b": pytest.approx([200])}


def test_errors_are_counted_and_the_first_one_is_kept(run):
    async def send(request):
        await asyncio.sleep(0.09)
        if request % 2:
            raise ValueError(f"no\n good {request}")

    turn = run(run_turn("", contender(send, 4), 1, 1.0))
    assert turn.n_errors == 5
    assert turn.n_rows == len(turn.all_ms()) == 6
    assert turn.first_error == "no good 1"


def test_what_takes_too_long_is_counted_as_timed_out_and_given_up(run):
    given_up = []

    async def send(request):
        try:
            await asyncio.sleep(9 if request == 1 else 0.1)
        except asyncio.CancelledError:
            given_up.append(request)
            raise

    turn = run(run_turn("", contender(send, 30), 1, 1.0, timeout_s=0.5))
    assert (turn.n_timeouts, turn.n_errors, given_up) == (1, 0, [1])
    assert turn.all_ms() == pytest.approx([100] * len(turn.all_ms()))
    assert turn.timeouts_ms == {"all": pytest.approx([500])}
    assert sorted(turn.waits_ms()) == pytest.approx([*turn.all_ms(), 500])


def test_a_time_out_of_the_open_loop_counts_from_the_intended_send_time(run, monkeypatch):
    monkeypatch.setattr(load, "arrivals", lambda *_: iter([0.0, 0.1]))
    turn = run(run_open_turn("", contender(sleeper(9)), rate=10, duration_s=1, timeout_s=0.5))
    assert turn.timeouts_ms == {"all": pytest.approx([500, 500])}
    assert np.allclose(turn.waits_s, [(0, 0.5), (0.1, 0.5)])


def test_every_client_sends_a_request_however_short_the_turn(run):
    assert run(run_turn("", contender(sleeper(0.1)), concurrency=3, duration_s=0)).n_rows == 3


def test_a_client_does_not_hammer_a_server_that_is_down(run):
    async def send(request):
        raise OSError("connection refused")

    turn = run(run_turn("", contender(send), concurrency=2, duration_s=1))
    assert turn.n_errors == pytest.approx(2 / load.PAUSE_S, abs=4)
    assert turn.n_rows == 0


def test_warming_up_counts_its_failures_only(run):
    answers = iter([None, OSError("cold")])

    async def send(request):
        await asyncio.sleep(0.5)
        if error := next(answers, None):
            raise error

    turn = run(run_turn("", contender(send), concurrency=2, duration_s=0.4, warm_up=True))
    assert (len(turn.all_ms()), turn.n_errors) == (2, 1)
    assert turn.elapsed_s == pytest.approx(0.5)


class Stalling:
    """Answers in 1 ms, but nothing between 1 and 3 s."""

    async def __call__(self, request):
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(3 - now if 1 < now < 3 else 0.001)


def test_a_stall_shows_in_the_tail_of_the_open_loop(run):
    turn = run(run_open_turn("", contender(Stalling()), rate=50, duration_s=10))
    assert turn.n_rows == pytest.approx(500, rel=0.15)
    assert np.percentile(turn.all_ms(), 50) == pytest.approx(1)
    assert np.percentile(turn.all_ms(), 99) == pytest.approx(1900, rel=0.05)
    assert sum(ms > 2 for ms in turn.all_ms()) == pytest.approx(100, rel=0.3)


def test_the_same_stall_is_one_request_of_a_closed_loop(run):
    # Which is why the open loop is there.
    turn = run(run_turn("", contender(Stalling()), concurrency=1, duration_s=10))
    assert sum(ms > 2 for ms in turn.all_ms()) == 1


def test_open_loop_sends_on_however_many_are_unanswered(run):
    outstanding = most = 0

    async def send(request):
        nonlocal outstanding, most
        outstanding += 1
        most = max(most, outstanding)
        await asyncio.sleep(30)
        outstanding -= 1

    turn = run(run_open_turn("", contender(send), rate=100, duration_s=5))
    assert turn.n_rows == most == len(list(arrivals(100, 5, 0)))
    assert most > 400


def test_a_late_client_shows_in_the_latency_of_the_open_loop(run, monkeypatch):
    times = [0.0, 0.1, 0.2]
    monkeypatch.setattr(load, "arrivals", lambda *_: times)

    async def late(seconds):  # this process gets no CPU for half a second, at the first request
        virtual.now += 0.5 if not late_once else 0
        late_once.append(True)

    late_once = []
    virtual = None

    async def turn():
        nonlocal virtual
        virtual = asyncio.get_running_loop()
        return await run_open_turn("", contender(late), rate=10, duration_s=1)

    assert run(turn()).all_ms() == pytest.approx([500, 400, 300], abs=1)


def test_arrivals_are_poisson_and_the_same_for_the_same_seed():
    times = list(arrivals(100, 50, seed=1))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)  # exponential
    assert times == list(arrivals(100, 50, seed=1)) != list(arrivals(100, 50, seed=2))
    assert list(arrivals(0.001, 1, seed=0)) == [0.0]


def test_the_client_tells_how_busy_and_how_late_it_was(run):
    turn = run(run_turn("", contender(sleeper(0.1)), 1, 1.0))
    assert turn.client_busy == pytest.approx(0.25)  # the virtual CPU clock runs at a quarter
    assert turn.lag_ms == pytest.approx(0, abs=1e-6)


def test_an_unreachable_server_is_counted():
    turn = interruptible.interruptibly(
        run_turn("127.0.0.1:1", Contender("model", [b""], ["all"]), 2, 0.05, timeout_s=5)
    )
    assert turn.n_rows == 0
    assert turn.n_errors > 0
    assert "Connection refused" in turn.first_error


def test_ctrl_c_ends_a_turn_at_once_and_closes_its_connections():
    closed = []

    @asynccontextmanager
    async def connect(url):
        try:
            yield sleeper(3600)
        finally:
            closed.append(url)

    def taken(*_):
        pytest.fail("the signal went past the turn")

    before = signal.signal(signal.SIGINT, taken)  # as `dualpath serve` and its like do
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            interruptible.interruptibly(run_turn("here", Contender("model", [0], ["all"], connect=connect), 2, 60))
        assert signal.getsignal(signal.SIGINT) is taken
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed == ["here", "here"]
