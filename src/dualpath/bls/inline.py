"""Drive a graph in the thread that calls, without an event loop: its calls to children are all that it waits for.

An event loop costs two changes of threads for each call to a child. Here the longest call of several runs in the
calling thread itself, and the others in threads that are kept.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
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


class _Call:
    """A blocking call that a graph waits for, and how long it is expected to take."""

    def __init__(self, function: Callable[[], Any], expected_s: float) -> None:
        self.function, self.expected_s = function, expected_s


class _Fork:
    """What a graph waits for, all at once."""

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self.awaitables = awaitables


@types.coroutine
def call(function: Callable[[], Any], expected_s: float = 0.0) -> Generator[Any, Any, Any]:
    """Await a blocking function, in a graph that is driven inline."""
    return (yield _Call(function, expected_s))


@types.coroutine
def fork(awaitables: Sequence[Awaitable[Any]]) -> Generator[Any, Any, list[Any]]:
    """Await all at once, in a graph that is driven inline; if one fails, the others are closed."""
    results: list[Any] = yield _Fork(awaitables)
    return results


class Inline:
    """Threads for the calls that are made beside those of the calling thread."""

    def __init__(self) -> None:
        self._idle: list[_Helper] = []
        self._closed = False

    def drive(
        self,
        awaitable: Awaitable[Any],
        context: contextvars.Context,
        deadline: float | None = None,
    ) -> Any:
        """Run a coroutine to its end and return its result, or raise what it raises.

        Args:
            deadline: when to stop waiting, in seconds of `time.monotonic()`.
        Raises:
            Leave: the graph asked to, it awaits what needs an event loop, or the deadline has passed.
        """
        root = _Task(_as_coroutine(awaitable), context, None)
        ready = deque([root])
        tasks = [root]
        done: SimpleQueue[tuple[_Task, Any, BaseException | None]] = SimpleQueue()
        calls: list[tuple[_Task, _Call]] = []
        asyncio._set_running_loop(_NO_LOOP)
        try:
            while True:
                while ready:
                    task = ready.popleft()
                    wish = task.step()
                    if task.ended:
                        if task is root:
                            return task.result()
                        if parent := task.parent_to_resume():
                            ready.append(parent)
                    elif type(wish) is _Call:
                        calls.append((task, wish))
                    elif type(wish) is _Fork:
                        children = [_Task(_as_coroutine(each), task.context.copy(), task) for each in wish.awaitables]
                        task.children = children
                        tasks += children
                        ready += children
                    else:
                        raise Leave(needs_loop=True)
                calls = [each for each in calls if not each[0].ended]
                mine = max(calls, key=_expected_s) if calls and deadline is None else None
                for each in calls:
                    if each is not mine:
                        self._start(*each, done)
                calls.clear()
                if mine:
                    task, wish = mine
                    task.take(*_outcome(wish))
                else:
                    task, value, error = _next(done, deadline)
                    task.take(value, error)
                if not task.ended:
                    ready.append(task)
        finally:
            for task in reversed(tasks):
                task.close()
            asyncio._set_running_loop(None)

    def close(self) -> None:
        """Let the threads end, each after the call that it is in."""
        self._closed = True
        while self._idle:
            self._idle.pop().work.put(None)

    def _start(self, task: _Task, wish: _Call, done: SimpleQueue[Any]) -> None:
        try:
            helper = self._idle.pop()
        except IndexError:
            helper = _Helper(self._release)
        helper.work.put((task, wish, done))

    def _release(self, helper: _Helper) -> None:
        if self._closed:
            helper.work.put(None)
        else:
            self._idle.append(helper)


class _Helper:
    """A thread that makes calls, one after the other."""

    def __init__(self, release: Callable[[_Helper], None]) -> None:
        self.work: SimpleQueue[tuple[_Task, _Call, SimpleQueue[Any]] | None] = SimpleQueue()
        self._release = release
        threading.Thread(target=self._run, name="child", daemon=True).start()

    def _run(self) -> None:
        while work := self.work.get():
            task, wish, done = work
            outcome = _outcome(wish)
            self._release(self)
            done.put((task, *outcome))
            del task, wish, done, work, outcome


class _Task:
    """A coroutine that is being driven, and what it is to be given next."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context, parent: _Task | None) -> None:
        self.context = context
        self.children: list[_Task] = []
        self.ended = False
        self._coroutine = coroutine
        self._parent = parent
        self._value: Any = None
        self._error: BaseException | None = None

    def take(self, value: Any, error: BaseException | None) -> None:
        """Note what the coroutine waited for."""
        self._value, self._error = value, error

    def step(self) -> Any:
        """Go on until the coroutine waits for something, which is returned, or has ended."""
        value, error = self._value, self._error
        self._value = self._error = None
        try:
            if error is None:
                return self.context.run(self._coroutine.send, value)
            return self.context.run(self._coroutine.throw, error)
        except StopIteration as end:
            self.ended, self._value = True, end.value
        except Leave:
            self.ended = True
            raise
        except BaseException as failure:
            self.ended, self._error = True, failure
        return None

    def result(self) -> Any:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or its traceback would hold this frame, in a circle
        return self._value

    def parent_to_resume(self) -> _Task | None:
        """Return the parent if this was the last of its children to end, or the first to fail."""
        parent = self._parent
        assert parent
        if parent.ended or not parent.children:
            return None
        if self._error is not None:
            for child in parent.children:
                child.close()
            parent.take(None, self._error)
        elif all(child.ended for child in parent.children):
            parent.take([child._value for child in parent.children], None)
        else:
            return None
        parent.children = []
        return parent

    def close(self) -> None:
        """End the coroutine where it is, and those that it waits for."""
        for child in self.children:
            child.close()
        if not self.ended:
            self.ended = True
            with suppress(Exception):  # it has nobody left to answer to
                self.context.run(_close, self._coroutine)


class _NoLoop:
    """Stands for the event loop of a graph that has none; whoever needs one leaves."""

    def __getattr__(self, name: str) -> Any:
        raise Leave(needs_loop=True)

    def __hash__(self) -> int:
        raise Leave(needs_loop=True)


_NO_LOOP: Any = _NoLoop()


def _expected_s(call: tuple[_Task, _Call]) -> float:
    return call[1].expected_s


def _outcome(wish: _Call) -> tuple[Any, BaseException | None]:
    try:
        return wish.function(), None
    except BaseException as error:
        return None, error


def _next(done: SimpleQueue[Any], deadline: float | None) -> tuple[_Task, Any, BaseException | None]:
    try:
        outcome: tuple[_Task, Any, BaseException | None]
        outcome = done.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except Empty:
        raise Leave from None
    return outcome


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine, and those that it has been given to await but never began to."""
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for given in inspect.getcoroutinelocals(coroutine).values():
            if inspect.iscoroutine(given):
                _close(given)
    coroutine.close()


def _as_coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    if type(awaitable) is types.CoroutineType or isinstance(awaitable, Coroutine):
        return awaitable
    return _awaiting(awaitable)


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
