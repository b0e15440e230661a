"""Measure contenders under several loads, in short turns, and write what is found into a Result as it comes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dualpath.compare import stats, verdict
from dualpath.compare.interruptible import interruptibly
from dualpath.compare.load import PAUSE_S, Contender, Turn, run_open_turn, run_turn
from dualpath.compare.result import PERCENTILES, Cell, Compared, Load, Measured, Result
from dualpath.errors import UserError

OnProgress = Callable[[str, float], None]
"""Is told what comes next, in words, and which share of the work is done."""


MIN_ROUNDS, MAX_ROUNDS = 6, 20
MIN_TURN_S = 1.0
MIN_OPEN_TURN_S = 2.0
"""Of an open loop, in which queues have to build up."""
WARM_UP_S = 1.0
SLOW_REQUEST_S = 0.2
"""From this latency on, what a first request costs more than others does not show."""


@dataclass(frozen=True)
class TurnSpec:
    """One turn to be measured.

    Attributes:
        start: the request to start with, the same for all contenders of a round; it seeds the arrivals too.
        warm_up: whether to send some requests before the clock starts.
    """

    contender: Contender
    load: Load
    duration_s: float
    start: int
    warm_up: bool


@dataclass(frozen=True)
class Timing:
    """How long to measure.

    Attributes:
        duration_s: per contender and load. Requests that take longer than a sixth of it prolong it.
        timeout_s: of each request.
        seed: of all that is random.
    """

    duration_s: float = 10.0
    timeout_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for option, seconds in (("--duration", self.duration_s), ("--timeout", self.timeout_s)):
            if not 0 < seconds < float("inf"):
                raise UserError(f"{option}: expected a number of seconds above 0, got {seconds:g}. Give more.")
        if self.seed < 0:
            raise UserError(f"--seed: expected a number of 0 or more, got {self.seed}. Give one.")


def on_server(url: str, timeout_s: float) -> Callable[[TurnSpec], Turn]:
    """Return the function that measures turns on the server at a gRPC address."""

    def measure_turn(order: TurnSpec) -> Turn:
        contender, load = order.contender, order.load
        how: Any = {"timeout_s": timeout_s, "warm_up": order.warm_up}
        if load.rate is not None:
            return interruptibly(run_open_turn(url, contender, load.rate, order.duration_s, order.start, **how))
        assert load.concurrency is not None
        return interruptibly(run_turn(url, contender, load.concurrency, order.duration_s, order.start, **how))

    return measure_turn


class _ServerGoneError(Exception):
    """The message says why."""


@dataclass
class Measurement:
    """Measures all contenders of a result under each load, lightest first, and adds a cell for each; `run` it once.

    Contenders take turns in random order. A request that would take longer than the timeout is not tried, as
    far as lighter loads tell. When the server goes away, the result says so and has failed; on Ctrl-C it says so and
    KeyboardInterrupt goes on. Either way it holds what was measured until then.

    Args:
        make: makes a contender by its name for a load, or says why it is not measured ("no GPU").
        measure_turn: `on_server(...)`.
        around: entered for each turn, warm-up included, with the contender's name.
        gone: says why the server is gone, or None; asked after a turn with a failure.
        on_progress: called before each turn and after the last.
        on_turns: called with a load's complete rounds, by contender.
    """

    result: Result
    loads: Sequence[Load]
    make: Callable[[str, Load], Contender | str]
    measure_turn: Callable[[TurnSpec], Turn]
    timing: Timing = Timing()
    around: Callable[[str], AbstractContextManager[object]] = lambda contender: nullcontext()
    gone: Callable[[], str | None] = lambda: None
    on_progress: OnProgress = lambda text, fraction: None
    on_turns: Callable[[Mapping[str, Sequence[Turn]]], None] = lambda turns: None

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.timing.seed)
        self._n_measured = 0
        self._rows_per_s: dict[str, float] = {}  # the best so far, by contender

    def run(self) -> None:
        """Measure."""
        result, n_loads = self.result, len(self.loads)
        ordered = sorted(self.loads, key=lambda load: (load.rate is not None, _demand(load)))
        try:
            for number, load in enumerate(ordered):
                self._cell(load, number)
        except _ServerGoneError as error:
            result.failed = True
            result.notes.append(f"The server went away ({error}) after {self._n_measured} of {n_loads} loads.")
        except KeyboardInterrupt:
            result.notes.append(f"Interrupted after {self._n_measured} of {n_loads} loads.")
            raise
        finally:
            result.verdict = verdict.sentence(result)

    def _cell(self, load: Load, number: int) -> None:
        cell = Cell(load)
        self.result.cells.append(cell)
        contenders = self._contenders(cell)
        turns: dict[str, list[Turn]] = {}
        n_complete = 0
        try:
            latency_s = self._warm_up(cell, contenders, number)
            n_turns, turn_s = turns_of(self.timing.duration_s, latency_s, load)
            turns = {name: [] for name in contenders}
            for round_ in range(n_turns if contenders else 0):
                start = self._start()
                for index in self._rng.permutation(len(contenders)):
                    name = list(contenders)[index]
                    self._tell(cell, number + round_ / n_turns)
                    spec = TurnSpec(contenders[name], load, turn_s, start, latency_s < SLOW_REQUEST_S)
                    turns[name].append(turn := self._turn(spec))
                    cell.measured[name] = summary(turns[name])
                    self._check(turn)
                n_complete += 1
            self._n_measured += 1
        finally:
            # A turn in which the server went away is no match for the one next to it.
            complete = {name: taken[:n_complete] for name, taken in turns.items()}
            _compare(cell, complete, self.result.contenders)
            verdict.annotate(cell, turns, self.result.contenders)
            if not cell.measured and not cell.not_measured:
                self.result.cells.remove(cell)
            if any(m.n_requests == m.n_failed > 0 for m in cell.measured.values()):
                self.result.failed = True
        for name, measured in cell.measured.items():
            self._rows_per_s[name] = max(self._rows_per_s.get(name, 0.0), measured.rows_per_s)
        self.on_turns(complete)
        self._tell(cell, number + 1)

    def _contenders(self, cell: Cell) -> dict[str, Contender]:
        """Make the contenders; those that cannot or need not be measured are named in the cell."""
        contenders = {}
        for name in self.result.contenders:
            made = self._too_slow(name, cell.load) or self.make(name, cell.load)
            if isinstance(made, str):
                cell.not_measured[name] = made
            else:
                contenders[name] = made
        return contenders

    def _too_slow(self, name: str, load: Load) -> str | None:
        if load.rate is not None or not (rows_per_s := self._rows_per_s.get(name)):
            return None
        expected_s = _demand(load) / rows_per_s
        if expected_s <= self.timing.timeout_s:
            return None
        return (
            f"a request would take about {expected_s:.0f} s, longer than the timeout of {self.timing.timeout_s:g} s, "
            f"at the {rows_per_s:.3g} rows/s that lighter loads reached"
        )

    def _warm_up(self, cell: Cell, contenders: dict[str, Contender], number: int) -> float:
        """Warm all up; return the longest median latency in seconds. Who answers nothing in time is left out."""
        latency_s = 0.0
        start = self._start()
        for name, contender in list(contenders.items()):
            self._tell(cell, number)
            turn = self._turn(TurnSpec(contender, cell.load, min(WARM_UP_S, self.timing.duration_s), start, False))
            self._check(turn)
            if latencies := turn.all_ms():
                latency_s = max(latency_s, float(np.median(latencies)) / 1e3)
            elif turn.n_timeouts and not turn.n_errors:
                cell.not_measured[name] = f"no answer within the timeout of {self.timing.timeout_s:g} s"
                del contenders[name]
        return latency_s

    def _turn(self, order: TurnSpec) -> Turn:
        with self.around(order.contender.name):
            turn = self.measure_turn(order)
            if turn.n_timeouts:  # the server may still work on what nobody waits for, and the next turn is another's
                drain = replace(order, load=Load(order.load.batch, concurrency=1), duration_s=PAUSE_S, warm_up=False)
                self.measure_turn(drain)
        return turn

    def _check(self, turn: Turn) -> None:
        if (turn.n_errors or turn.n_timeouts) and (why := self.gone()):
            raise _ServerGoneError(why)

    def _tell(self, cell: Cell, n_done: float) -> None:
        rates = ", ".join(f"{name} {measured.rows_per_s:.3g} rows/s" for name, measured in cell.measured.items())
        self.on_progress(f"{cell.load}: {rates or 'warming up'}", n_done / len(self.loads))

    def _start(self) -> int:
        return int(self._rng.integers(1 << 16))


def turns_of(duration_s: float, latency_s: float, load: Load) -> tuple[int, float]:
    """Return how many turns to take and how long each: many short ones, none much shorter than a few requests."""
    turn_s = max(MIN_TURN_S if load.rate is None else MIN_OPEN_TURN_S, 3 * latency_s)
    n_turns = min(MAX_ROUNDS, max(MIN_ROUNDS, int(duration_s / turn_s)))
    if latency_s * MIN_ROUNDS > 3 * duration_s:  # then fewer, or they would take for ever
        n_turns = max(1, int(3 * duration_s / latency_s))
    return n_turns, duration_s / n_turns


def summary(turns: Sequence[Turn]) -> Measured:
    """Put a contender's turns together."""
    groups = turns[0].latencies_ms.keys()
    answered = {group for turn in turns for group, latencies in turn.latencies_ms.items() if latencies}
    by_group = {group: [ms for turn in turns for ms in turn.waits_ms(group)] for group in groups}
    all_ms = [ms for waits in by_group.values() for ms in waits] if answered else []
    n_errors, n_timeouts = sum(turn.n_errors for turn in turns), sum(turn.n_timeouts for turn in turns)
    return Measured(
        rows_per_s=sum(turn.n_rows for turn in turns) / sum(turn.elapsed_s for turn in turns),
        n_requests=sum(len(turn.all_ms()) for turn in turns) + n_errors + n_timeouts,
        n_errors=n_errors,
        n_timeouts=n_timeouts,
        first_error=next((turn.first_error for turn in turns if turn.first_error), None),
        latencies_ms=stats.distribution(all_ms, PERCENTILES),
        groups_ms={
            group: stats.distribution(ms if group in answered else [], PERCENTILES)
            for group, ms in by_group.items()
            if len(groups) > 1
        },
    )


def _compare(cell: Cell, turns: Mapping[str, Sequence[Turn]], contenders: Sequence[str]) -> None:
    baseline, *others = contenders
    for other in others:
        ours, theirs = turns.get(other, ()), turns.get(baseline, ())
        waits = [(a.waits_ms(), b.waits_ms()) for a, b in zip(ours, theirs, strict=False)]
        waits = [(a_ms, b_ms) for a_ms, b_ms in waits if a_ms and b_ms]
        if waits and all(any(turn.n_rows for turn in taken) for taken in (ours, theirs)):
            a_ms, b_ms = zip(*waits, strict=True)
            cell.compared[other] = Compared(
                throughput=stats.ratio(stats.throughput(ours), stats.throughput(theirs)),
                p50=stats.percentile_ratio(a_ms, b_ms, 50),
                p99=stats.percentile_ratio(a_ms, b_ms, 99),
            )


def _demand(load: Load) -> float:
    """Rows that wait for an answer in a closed loop; rows per second of an open one."""
    return load.batch * (load.concurrency if load.rate is None else load.rate)  # type: ignore[operator]
