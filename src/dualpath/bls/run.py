"""One run of a graph: whose rows it holds, what it has counted, and what an earlier run already found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.errors import ChildError

if TYPE_CHECKING:
    from dualpath.bls.request import Request

Owners = npt.NDArray[np.intp]
"""For each row, which of the run's requests it belongs to."""


class Run:
    """What belongs to one run of a graph; `current_run()` finds it from inside.

    Attributes:
        request: what the graph gets.
        inline: whether it is driven in the thread of `execute`, where nothing may wait for long.
        n_requests: how many requests it holds.
        attempts: calls to children that an earlier run made in vain and that are to be made again.
        notes: what to do once the run has answered, such as counting: a run that is given up counts nothing.
    """

    __slots__ = ("attempts", "inline", "memo", "n_requests", "notes", "request")

    def __init__(self, request: Request, n_requests: int, memo: Memo, inline: bool) -> None:
        self.request, self.n_requests, self.memo, self.inline = request, n_requests, memo, inline
        self.attempts = memo.attempts.copy()
        self.notes: list[Callable[[], None]] = []

    def commit(self) -> None:
        """Do what was noted."""
        for note in self.notes:
            note()


_run: ContextVar[Run | None] = ContextVar("dualpath.bls.run", default=None)
owners: ContextVar[Owners | None] = ContextVar("dualpath.bls.owners", default=None)
"""Whose rows the code is at work on, or on what was made of them; None if they are all one request's."""


def begin(run: Run, n_rows: Sequence[int]) -> None:
    """Make the calling context part of a run.

    Args:
        n_rows: rows of each of its requests.
    """
    _run.set(run)
    owners.set(np.repeat(np.arange(len(n_rows)), n_rows) if len(n_rows) > 1 else None)


def current_run() -> Run | None:
    """Return the run that the calling code is part of."""
    return _run.get()


def current_request() -> Request:
    """Return the request that the calling graph is at work on.

    Raises:
        RuntimeError: the code is not part of a graph.
    """
    run = _run.get()
    if run is None:
        raise RuntimeError("current_request: expected code that a Pipeline's graph calls, got other code.")
    return run.request


class Memo:
    """What the runs of one `execute` found out for rows, so that a run which starts again does not ask again.

    Rows count as the same if their contents are equal. What was found out once is given once.

    Attributes:
        unavailable: children that were found so: asking them again would be one more request for a full queue.
        attempts: calls to children that failed, of those that are to be tried again.
    """

    __slots__ = ("_known", "_log", "attempts", "unavailable")

    def __init__(self) -> None:
        self.unavailable: dict[Any, ChildError] = {}
        self.attempts: dict[Any, int] = {}
        self._log: list[tuple[Any, Sequence[Any], Sequence[Any]]] = []
        self._known: dict[tuple[Any, Hashable], list[Any]] = {}

    def note(self, what: Any, rows: Sequence[Any], answers: Sequence[Any]) -> None:
        """Keep what `what` (a function or a child) answered for rows, in case that the run is given up.

        Copies are kept: the graph may write to its arrays.
        """
        self._log.append((what, copied(rows), copied(answers)))

    def give_up(self) -> None:
        """Let the next run recall what this one has noted."""
        for what, rows, answers in self._log:
            for row, answer in zip(rows, answers, strict=True):
                if (key := _key(row)) is not None:
                    self._known.setdefault((what, key), []).append(answer)
        self._log.clear()

    def recall(self, what: Any, rows: Sequence[Any]) -> list[Any] | None:
        """Return what `what` answered for all of these rows in a run that was given up; None if one is not known."""
        if not self._known:
            return None
        keys = [(what, _key(row)) for row in rows]
        if any(len(self._known.get(key, ())) < n for key, n in Counter(keys).items()):
            return None
        with suppress(IndexError):  # taken just now by a run in another thread
            return [self._known[key].pop() for key in keys]
        return None


def copied(value: Any) -> Any:
    """Return a copy of a NumPy or CuPy array, or of those that a list, tuple or dict holds; anything else as it is."""
    if hasattr(value, "dtype") and hasattr(value, "copy"):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return {name: copied(each) for name, each in value.items()} if isinstance(value, dict) else value


def _key(row: Any) -> Hashable:
    if isinstance(row, (bytes, str)):
        return row
    if isinstance(row, np.ndarray) and row.dtype != np.object_:
        return row.dtype.str, row.shape, row.tobytes()
    if isinstance(row, tuple):
        keys = tuple(map(_key, row))
        return None if None in keys else keys
    return None
