"""One run of a graph: whose rows it holds, what it has counted, what an earlier run already found out; and what it can
wish for while `execute` waits: a call, several branches at once, or to leave."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dualpath.bls.errors import ChildError

STAGE_SECONDS = "stage_seconds"
"""The histogram of how long stages take."""

Note = tuple[Any, ...]
"""What a run counts once it has answered: a function and its arguments."""

Owners = npt.NDArray[np.intp]
"""For each row, which of the run's requests it belongs to."""


class Run:
    """What belongs to one run of a graph; `current_run()` finds it from inside.

    Attributes:
        request: the `Request` that the graph gets.
        inline: whether `execute` waits for it, so that nothing may take long.
        n_rows: rows of each of its requests.
        attempts: calls to children that an earlier run made in vain and that are to be made again.
        notes: what to count once the run has answered: a run that is given up counts nothing.
        spent_s: seconds that runs which were given up have spent on stages, by the stages' names.
    """

    __slots__ = ("attempts", "inline", "memo", "n_rows", "notes", "request", "spent_s")

    def __init__(self, request: Any, n_rows: Sequence[int], memo: Memo, inline: bool) -> None:
        self.request, self.n_rows, self.memo, self.inline = request, n_rows, memo, inline
        self.attempts = memo.attempts.copy()
        self.spent_s = memo.spent_s.copy()
        self.notes: list[Note] = []


_run: ContextVar[Run | None] = ContextVar("dualpath.bls.run", default=None)
_owners: ContextVar[Owners | None] = ContextVar("dualpath.bls.owners", default=None)
"""Whose rows the code is at work on, or on what was made of them; None if it is at work on all rows of the run."""


def begin(run: Run) -> None:
    """Make the calling context part of a run."""
    _run.set(run)
    _owners.set(None)


def owners() -> Owners | None:
    """Return whose rows the code is at work on, or on what was made of them; None if they are all one request's."""
    run, chosen = _run.get(), _owners.get()
    if run is None or len(run.n_rows) == 1 or chosen is not None:
        return chosen
    return np.repeat(np.arange(len(run.n_rows)), run.n_rows)


@contextmanager
def at_work_on(mask: npt.NDArray[np.bool_]) -> Iterator[None]:
    """Let the code in the block be at work on the rows where `mask` is True, of those that it was at work on."""
    whose = owners()
    token = _owners.set(whose[mask] if whose is not None and len(whose) == len(mask) else whose)
    try:
        yield
    finally:
        _owners.reset(token)


def current_run() -> Run | None:
    """Return the run that the calling code is part of."""
    return _run.get()


class Memo:
    """What the runs of one `execute` found out for rows, so that a run which starts again does not ask again.

    Rows count as the same if their contents are equal. What was found out once is given once.

    Attributes:
        unavailable: children that were found so: asking them again would be one more request for a full queue.
        attempts: calls to children that failed, of those that are to be tried again.
        spent_s: seconds spent on stages by runs that were given up.
    """

    __slots__ = ("_known", "_log", "attempts", "spent_s", "unavailable")

    def __init__(self) -> None:
        self.unavailable: dict[Any, ChildError] = {}
        self.attempts: dict[Any, int] = {}
        self.spent_s: dict[str, float] = {}
        self._log: list[tuple[Any, Any, Any, Callable[[Any], Iterable[Any]]]] = []
        self._known: dict[tuple[Any, Hashable], list[Any]] = {}

    def note(self, what: Any, rows: Sequence[Any], answers: Any, by_row: Callable[[Any], Iterable[Any]] = iter) -> None:
        """Keep what `what` (a function or a child) answered for rows, in case that the run is given up.

        Copies are kept: the graph may write to its arrays.

        Args:
            by_row: takes the answers apart.
        """
        self._log.append((what, _kept(rows), _kept(answers), by_row))

    def give_up(self, run: Run) -> None:
        """Let the next run recall what this one has noted."""
        self.spent_s = run.spent_s
        for _, name, value, labels, _ in run.notes:
            if name == STAGE_SECONDS:
                self.spent_s[labels["stage"]] = self.spent_s.get(labels["stage"], 0.0) + value
        for what, rows, answers, by_row in self._log:
            for row, answer in zip(_given_back(rows), by_row(_given_back(answers)), strict=True):
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


class _Kept(NamedTuple):
    """A copy of a NumPy array of numbers. NumPy's own would hand the interpreter to another thread and wait for it."""

    contents: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _kept(value: Any) -> Any:
    """Return a copy of an array, or of those that a list, tuple or dict holds; anything else as it is."""
    kind = type(value)
    if kind is np.ndarray:
        return value.copy() if value.dtype.hasobject else _Kept(value.tobytes(), value.dtype, value.shape)
    if kind is list:
        return list(map(_kept, value))
    if kind is bytes:
        return value
    if kind is tuple:
        return tuple(map(_kept, value))
    if isinstance(value, dict):
        return {name: _kept(each) for name, each in value.items()}
    return value.copy() if hasattr(value, "dtype") and hasattr(value, "copy") else value


def _given_back(value: Any) -> Any:
    """Return what was kept, as it was."""
    if isinstance(value, _Kept):
        return np.frombuffer(value.contents, value.dtype).reshape(value.shape).copy()
    if type(value) in (list, tuple):
        return type(value)(map(_given_back, value))
    return {name: _given_back(each) for name, each in value.items()} if isinstance(value, dict) else value


def _key(row: Any) -> Hashable:
    """Return what is equal for rows of equal contents, and for no others; None if that cannot be told."""
    if isinstance(row, (bytes, str)):
        return row
    if isinstance(row, np.ndarray):
        contents = _key(tuple(row.ravel().tolist())) if row.dtype == np.object_ else row.tobytes()
        return None if contents is None else (row.dtype.str, row.shape, contents)
    if isinstance(row, (tuple, list)):
        keys = tuple(map(_key, row))
        return None if None in keys else (type(row), keys)
    if isinstance(row, dict):
        keys = tuple(map(_key, row.values()))
        return None if None in keys else (tuple(row), keys)
    if row is None or isinstance(row, (bool, int, float, np.generic)):
        return type(row), repr(row)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0
    return None


class Leave(BaseException):
    """The graph waits for something that must not keep `execute`: it goes on elsewhere.

    Attributes:
        owners: which of the run's requests do so; None if all of them.
        needs_loop: whether it needs an event loop, as it will each time.
        apart: whether each of these requests is to be run by itself first, to see whether it has to go.
    """

    def __init__(self, owners: Iterable[int] | None = None, needs_loop: bool = False, apart: bool = False) -> None:
        self.owners = None if owners is None else frozenset(owners)
        self.needs_loop, self.apart = needs_loop, apart


class Call:
    """A blocking call that a graph waits for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function


class Fork:
    """What a graph waits for, all at once."""

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self.awaitables = awaitables


@types.coroutine
def blocking(function: Callable[[], Any]) -> Generator[Any, Any, Any]:
    """Await a blocking function, in a graph that is driven inline."""
    return (yield Call(function))


@types.coroutine
def fork(awaitables: Sequence[Awaitable[Any]]) -> Generator[Any, Any, list[Any]]:
    """Await all at once, in a graph that is driven inline; if one fails, the others are closed."""
    results: list[Any] = yield Fork(awaitables)
    return results


class _NoLoop:
    """Stands for the event loop of a graph that has none; whoever needs one leaves."""

    def __getattr__(self, name: str) -> Any:
        raise Leave(needs_loop=True)

    def __hash__(self) -> int:
        raise Leave(needs_loop=True)


NO_LOOP: Any = _NoLoop()
