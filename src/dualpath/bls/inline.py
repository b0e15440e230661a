"""Drive a graph while its caller waits, without an event loop: its calls to children are all that it waits for.

An event loop costs two changes of threads for each call to a child. Here the first call runs in the calling thread
itself, at once; a second thread prepares the others meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from dualpath.bls.run import NO_LOOP, Call, Fork, Leave
from dualpath.bls.tensors import use_gpu

_Works = SimpleQueue[Callable[[], None] | None]
"""What a thread is given to do; None ends it."""


class Inline:
    """Drives graphs, with threads that are kept for the calls made beside those of the calling thread.

    Args:
        gpu: the GPU that is these threads' and the calling one's; None or 0 for CUDA's default.
    """

    def __init__(self, gpu: int | None = None) -> None:
        use_gpu(gpu)  # a GPU that cannot be had is an error now, not in each thread
        self._gpu = gpu
        self._idle: list[_Works] = []
        self._closed = False

    def drive(self, awaitable: Awaitable[Any], context: contextvars.Context, deadline: float | None = None) -> Any:
        """Run a coroutine to its end and return its result, or raise what it raises.

        Args:
            deadline: when to stop waiting, in seconds of `time.monotonic()`.
        Raises:
            Leave: the graph asked to, it awaits what needs an event loop, or the deadline has passed.
        """
        drive = _Drive(_Task(_as_coroutine(awaitable), context, None), self._start)
        asyncio._set_running_loop(NO_LOOP)
        try:
            if deadline is None:
                drive.go_on()
            else:  # a call of this thread could outlast it
                self._start(drive.go_on)
            return drive.wait(deadline)
        finally:
            try:
                drive.close()
            finally:
                asyncio._set_running_loop(None)

    def close(self) -> None:
        """Let the threads end, each after the call that it is in."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _start(self, work: Callable[[], None]) -> None:
        try:
            given = self._idle.pop()
        except IndexError:
            given = SimpleQueue()
            threading.Thread(target=self._help, args=(given,), name="child", daemon=True).start()
        given.put(work)

    def _help(self, given: _Works) -> None:
        """Do one piece of work after the other, in a thread of its own."""
        with suppress(Exception):  # the work that needs it fails too, and has a caller to be told
            use_gpu(self._gpu)
        asyncio._set_running_loop(NO_LOOP)
        while work := given.get():
            work()
            del work
            if self._closed:
                return
            self._idle.append(given)


class _Drive:
    """A graph on its way. Its coroutines go on in one thread at a time, the one that has the baton.

    A thread whose coroutine comes to a call makes the call itself, at once. If other coroutines are ready, a second
    thread takes the baton. Whoever comes back from a call goes on from there. If the graph ends meanwhile, as another
    branch has failed, the calling thread still finishes the call that it is in.
    """

    def __init__(self, root: _Task, start: Callable[[Callable[[], None]], None]) -> None:
        self._root = root
        self._start = start
        self._tasks = [root]
        self._ready = deque([root])
        self._n_under_way = 0
        self._stopped: BaseException | None = None
        self._is_over = False
        self._over: SimpleQueue[None] = SimpleQueue()
        self._baton = threading.Lock()

    def go_on(self) -> None:
        """Take the graph further until nothing is left to do in this thread."""
        with self._baton:
            next_call = self._next_call()
        while next_call:
            task, wish = next_call
            outcome = _outcome(wish)
            with self._baton:
                self._n_under_way -= 1
                task.take(*outcome)
                next_call = self._next_call(task)

    def wait(self, deadline: float | None) -> Any:
        """Wait for the end, and return the graph's result or raise its error."""
        if not self._is_over:
            with suppress(Empty):
                self._over.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        with self._baton:
            stopped = self._stopped or (None if self._is_over else Leave())
            self._is_over, self._stopped = True, None
        if stopped:
            try:
                raise stopped
            finally:
                del stopped  # or its traceback would hold this frame, in a circle
        return self._root.result()

    def close(self) -> None:
        """End what is left of the coroutines."""
        with self._baton:
            self._is_over = True
            for task in reversed(self._tasks):
                task.close()

    def _next_call(self, answered: _Task | None = None) -> tuple[_Task, Call] | None:
        """Take coroutines further, up to a call that this thread is to make."""
        try:
            if answered and self._stopped:
                answered.note_answer()  # what is being answered is not asked again
            elif answered and not answered.ended:
                self._ready.appendleft(answered)  # its answer is noted before another coroutine leaves
            while self._ready and not (self._stopped or self._is_over):
                task = self._ready.popleft()
                wish = task.step()
                if task.ended:
                    if task is self._root:
                        self._end()
                    elif parent := task.parent_to_resume():
                        self._ready.append(parent)
                elif type(wish) is Call:
                    if self._ready:
                        self._start(self.go_on)
                    self._n_under_way += 1
                    return task, wish
                elif type(wish) is Fork:
                    children = [_Task(_as_coroutine(each), task.context.copy(), task) for each in wish.awaitables]
                    task.children = children
                    self._tasks += children
                    self._ready += children
                else:
                    raise Leave(needs_loop=True)
        except BaseException as error:  # Leave; or a thread cannot be started
            self._stopped = error
        if self._stopped and not self._n_under_way:
            self._end()
        return None

    def _end(self) -> None:
        self._is_over = True
        self._over.put(None)


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
                for each in wish.awaitables if type(wish) is Fork else ():
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
            with suppress(Exception, Leave):  # it has nobody left to answer to
                self.context.run(_close, self._coroutine)


def _outcome(wish: Call) -> tuple[Any, BaseException | None]:
    try:
        return wish.function(), None
    except BaseException as error:
        return None, error


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine, and those that it has been given to await but never began to."""
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for given in inspect.getcoroutinelocals(coroutine).values():
            if inspect.iscoroutine(given):
                _close(given)
    coroutine.close()


def _as_coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    if inspect.iscoroutine(awaitable) or isinstance(awaitable, Coroutine):
        return awaitable
    return _awaiting(awaitable)


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
