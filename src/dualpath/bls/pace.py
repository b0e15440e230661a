"""How long a child's calls take, learnt from those made."""

from __future__ import annotations

import math
from dataclasses import dataclass

SLOW_S = 0.005
"""A child whose calls take longer must not keep `execute`."""

MEMORY = 0.95
"""What each call leaves of the weight of those before it: about twenty count."""

FIRST_ROWS = 4
"""Rows of a first call; a later one has at most twice as many as the largest before it."""

MOST_IN_FLIGHT = 4
"""Calls at a time that are tried if nobody says how many."""

ENOUGH_CALLS = 6
"""Calls that tell how long one takes."""

STALL = 2.0
"""A call that takes so many times as long as those before it counts for no more: a busy machine stalls now and then."""

TRY_AGAIN_AFTER = 400
"""After so many calls other numbers at a time are tried anew: the child or the machine may have changed."""

NEAR = 0.9
"""What part of the highest rate is as good: fewer calls and fewer rows keep others waiting for less."""


class Pace:
    """Seconds per call as a line over its rows: a fixed part, and a part for each row."""

    def __init__(self) -> None:
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    @property
    def is_known(self) -> bool:
        return self._weight > 0

    def note(self, n_rows: int, elapsed_s: float) -> None:
        """Learn from a call."""
        self._weight = MEMORY * self._weight + 1
        self._n = MEMORY * self._n + n_rows
        self._s = MEMORY * self._s + elapsed_s
        self._nn = MEMORY * self._nn + n_rows * n_rows
        self._ns = MEMORY * self._ns + n_rows * elapsed_s

    def scale(self, factor: float) -> None:
        """Let all calls have taken so many times as long."""
        self._s *= factor
        self._ns *= factor

    def seconds(self, n_rows: int) -> float:
        """Return how long a call of so many rows will take; infinity before the first call."""
        if not self._weight:
            return math.inf
        mean_n, mean_s = self._n / self._weight, self._s / self._weight
        spread = self._nn / self._weight - mean_n**2
        if spread < 0.01:  # all calls had as many rows: nothing tells what a row adds
            return mean_s
        per_row = max(0.0, (self._ns / self._weight - mean_n * mean_s) / spread)
        return max(mean_s * 0.1, mean_s + per_row * (n_rows - mean_n))


@dataclass(eq=False)
class CallUnderWay:
    """A call under way.

    Attributes:
        n_first: how many were under way when it began, itself included.
        n_most: the most that were so since.
    """

    n_first: int
    n_most: int = 0

    def __post_init__(self) -> None:
        self.n_most = self.n_first


class Cutter:
    """Decides how many calls are under way at a time and how many rows each has; learns what is not said.

    Args:
        in_flight: calls at a time; None learns how many pay.
        chunk_rows: rows in a call, at most; None learns how many pay.
        max_rows: rows in a call, at most, whatever pays.
    """

    def __init__(self, in_flight: int | None, chunk_rows: int | None, max_rows: int) -> None:
        self.chunk_rows = chunk_rows or max_rows
        self._in_flight = in_flight
        self._is_chunk_given = chunk_rows is not None
        self._largest = FIRST_ROWS
        self._paces = {n: Pace() for n in range(1, (in_flight or MOST_IN_FLIGHT) + 1)}
        self._n_calls = dict.fromkeys(self._paces, 0)
        self._n_noted = 0

    def note(self, n_rows: int, n_in_flight: int, elapsed_s: float) -> None:
        """Learn from a call that was the last to begin of so many under way: it took as long as all of them."""
        n_in_flight = min(n_in_flight, len(self._paces))
        pace = self._paces[n_in_flight]
        if self._n_calls[n_in_flight]:  # the first may warm the child up
            before_s = pace.seconds(n_rows)
            pace.note(n_rows, min(elapsed_s, STALL * before_s))
            if self._n_calls[n_in_flight] >= ENOUGH_CALLS:  # a machine that slows down does so for all
                for each in self._paces.values():
                    if each is not pace:
                        each.scale(pace.seconds(n_rows) / before_s)
        self._n_calls[n_in_flight] += 1
        self._largest = max(self._largest, n_rows)
        self._n_noted += 1
        if self._n_noted % TRY_AGAIN_AFTER == 0:
            for other in self._paces:
                if other != n_in_flight:
                    self._paces[other], self._n_calls[other] = Pace(), 0

    def in_flight(self, n_rows: int) -> int:
        """Return how many calls so many rows are worth: the fewest that come near the highest rate."""
        if self._in_flight:
            return self._in_flight
        worth = self._worth_trying()
        if unknown := [calls for calls in worth if self._n_calls[calls] < ENOUGH_CALLS]:
            return unknown[0]
        rates = {calls: max(self._rates(n_rows, calls, calls).values()) for calls in worth}
        return min(calls for calls, rate in rates.items() if rate >= NEAR * max(rates.values()))

    def rows_in_call(self, n_rows: int, n_calling: int) -> int:
        """Return how many of the waiting rows the next call takes: no more than leaves some for every idle instance."""
        calls = min(max(self.in_flight(n_rows), n_calling + 1), len(self._paces))
        rates = self._rates(n_rows, calls, max(1, calls - n_calling))
        if not self._paces[calls].is_known:
            return max(rates)
        return min(rows for rows, rate in rates.items() if rate >= NEAR * max(rates.values()))

    def _rates(self, n_rows: int, calls: int, n_idle: int) -> dict[int, float]:
        """Return the rows a second of each size that a call may have, if so many calls are under way."""
        pace = self._paces[calls]
        return {size: min(n_rows, n_idle * size) / pace.seconds(size) for size in self._sizes(n_rows, n_idle)}

    def _worth_trying(self) -> list[int]:
        """Return the numbers of calls at a time that are known, and the next one if the last one paid."""
        if self._in_flight:
            return [self._in_flight]
        worth = [1]
        for calls in range(2, len(self._paces) + 1):
            if self._n_calls[calls - 1] < ENOUGH_CALLS or (calls > 2 and not self._pays(calls - 1)):
                break
            worth.append(calls)
        return worth

    def _pays(self, calls: int) -> bool:
        rows = min(self._largest, self.chunk_rows)
        return calls / self._paces[calls].seconds(rows) > 1.05 * (calls - 1) / self._paces[calls - 1].seconds(rows)

    def _sizes(self, n_rows: int, n_idle: int) -> list[int]:
        most = min(self.chunk_rows, max(1, -(-n_rows // n_idle)))
        if self._is_chunk_given:
            return [most]
        most = min(most, 2 * self._largest)
        return sorted({min(most, 1 << power) for power in range(most.bit_length() + 1)})
