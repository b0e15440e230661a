"""What a graph that is driven without an event loop can wish for: a call, several branches at once, or to leave."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any


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
def call(function: Callable[[], Any]) -> Generator[Any, Any, Any]:
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
