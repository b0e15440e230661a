"""Drive a graph in the thread that calls, without an event loop: its calls to children are all that it waits for.

An event loop costs two changes of threads for each call to a child. Here the call that is ready last runs in the
calling thread itself. Those that are ready earlier run in threads that are kept, while the graph prepares the others.
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
    """A blocking call that a graph waits for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function


class _Fork:
    """What a graph waits for, all at once."""

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self.awaitables = awaitables


@types.coroutine
def call(function: Callable[[], Any]) -> Generator[Any, Any, Any]:
    """Await a blocking function, in a graph that is driven inline."""
    return (yield _Call(function))


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
        n_under_way = 0
        asyncio._set_running_loop(_NO_LOOP)
        try:
            while True:
                last: tuple[_Task, _Call] | None = None
                while ready:
                    task = ready.popleft()
                    wish = task.step()
                    if task.ended:
                        if task is root:
                            return task.result()
                        if parent := task.parent_to_resume():
                            ready.append(parent)
                    elif type(wish) is _Call:
                        if ready or deadline is not None:  # the child works while the others prepare their calls
                            self._start(task, wish, done)
                            n_under_way += 1
                        else:
                            last = task, wish
                    elif type(wish) is _Fork:
                        children = [_Task(_as_coroutine(each), task.context.copy(), task) for each in wish.awaitables]
                        task.children = children
                        tasks += children
                        ready += children
                    else:
                        raise Leave(needs_loop=True)
                if last:
                    task, wish = last
                    task.take(*_outcome(wish))
                else:
                    task = _take_next(done, deadline)
                    n_under_way -= 1
                if not task.ended:
                    ready.append(task)
        except Leave:
            with suppress(Leave):  # the deadline has passed
                for _ in range(n_under_way):  # what is being answered is not asked again
                    _take_next(done, deadline).note_answer()
            raise
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

    def note_answer(self) -> None:
        """Go on only so far that the answer is noted, whatever is awaited next."""
        if not self.ended:
            with suppress(Leave):
                wish = self.step()
                for each in wish.awaitables if type(wish) is _Fork else ():
                    _close(_as_coroutine(each))

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


def _outcome(wish: _Call) -> tuple[Any, BaseException | None]:
    try:
        return wish.function(), None
    except BaseException as error:
        return None, error


def _take_next(done: SimpleQueue[Any], deadline: float | None) -> _Task:
    """Wait for the next call to end and note its outcome."""
    task: _Task
    try:
        task, value, error = done.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except Empty:
        raise Leave from None
    task.take(value, error)
    return task


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
