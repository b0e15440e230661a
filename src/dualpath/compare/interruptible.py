"""Run a coroutine so that Ctrl-C ends it cleanly, in a script, in a thread and in a notebook."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def interruptibly(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Ctrl-C cancels it, its requests in flight with it, and raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(coroutine)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:  # a notebook's loop, within which no other can run
        return _run_beside(coroutine)
    # asyncio cancels a coroutine cleanly on Ctrl-C only if nobody else has taken the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return asyncio.run(coroutine)
    finally:
        signal.signal(signal.SIGINT, before)


def _run_beside(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own, to its end also on Ctrl-C, which cancels it."""
    started: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = SimpleQueue()

    async def told() -> T:
        started.put((asyncio.get_running_loop(), asyncio.current_task()))
        return await coroutine

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, told())
        loop, task = started.get()
        try:
            return running.result()
        except KeyboardInterrupt:
            if task and not running.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
