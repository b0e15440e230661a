"""Rows that wait for a child: which leave next, and which belong together. Used on the event loop's thread alone."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Any

from dualpath.bls.errors import CallerGone
from dualpath.bls.pace import Cutter
from dualpath.bls.request import Request

WINDOW_CHUNKS = 4
"""How many chunks' worth of waiting rows a chunk is chosen from: more means less padding, and longer waits."""

ASK_AFTER_S = 0.005
"""How long rows wait before their chunk asks whether their caller is still there."""


class Group:
    """The rows of one request that wait for one child.

    Attributes:
        kind: what rows must have in common to leave together.
        attempt: how many calls were made for them in vain.
        answer: each row's answer, in order; or the error of all.
    """

    def __init__(self, request: Request, kind: Hashable, n_rows: int, attempt: int) -> None:
        self.request = request
        self.attempt = attempt
        self.kind = kind
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._rows: list[Any] = [None] * n_rows
        self._n_open = n_rows
        self._since = time.monotonic()

    def has_waited(self) -> bool:
        """Tell whether it is time to ask for the caller, which costs a round trip."""
        return time.monotonic() - self._since > ASK_AFTER_S

    async def drop_if_cancelled(self) -> None:
        """Fail the group if its caller has gone."""
        try:
            if await self.request.is_cancelled():
                raise CallerGone("the caller cancelled the request.")
        except Exception as error:
            self.fail(error)

    def fill(self, index: int, row: Any) -> None:
        self._rows[index] = row
        self._n_open -= 1
        if self._n_open == 0 and not self.answer.done():
            self.answer.set_result(self._rows)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class WaitingRow:
    """One row of a group."""

    __slots__ = ("group", "index", "length", "row")

    def __init__(self, row: Any, index: int, group: Group) -> None:
        self.row, self.index, self.group = row, index, group
        self.length = 0 if isinstance(row, dict) or not getattr(row, "ndim", 1) else len(row)

    def is_settled(self) -> bool:
        """Tell whether the row's request needs it no more: it failed, expired or was cancelled."""
        return self.group.answer.done()


class WaitingRows:
    """A queue of rows."""

    def __init__(self) -> None:
        self._rows: deque[WaitingRow] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[Any], group: Group) -> None:
        """Let a request's rows wait."""
        self._rows.extend([WaitingRow(row, index, group) for index, row in enumerate(rows)])

    def take(self, cutter: Cutter, n_calling: int) -> list[WaitingRow]:
        """Take the next chunk out of the queue, sorted by length.

        It holds the row that has waited longest, so that none starves, and those nearest to it in length among the
        next in line, so that padding is small.

        Args:
            n_calling: calls under way.
        """
        while self._rows and self._rows[0].is_settled():
            self._rows.popleft()
        if not self._rows:
            return []
        n_rows = cutter.rows_in_call(len(self._rows), n_calling)
        n_window = WINDOW_CHUNKS * cutter.chunk_rows
        oldest = self._rows[0]
        window = [
            row
            for row in islice(self._rows, n_window)
            if not row.is_settled() and (row.group is oldest.group or row.group.kind == oldest.group.kind)
        ]
        if len(window) > n_rows:
            window = sorted(window, key=lambda row: abs(row.length - oldest.length))[:n_rows]
        taken = set(map(id, window))
        head = [self._rows.popleft() for _ in range(min(len(self._rows), n_window))]
        self._rows.extendleft(row for row in reversed(head) if id(row) not in taken)
        return sorted(window, key=lambda row: row.length)


def groups_of(chunk: Sequence[WaitingRow]) -> list[Group]:
    """Return the groups whose rows are in a chunk."""
    return list(dict.fromkeys(row.group for row in chunk))
