"""An event loop that the waiting thread runs itself, and a background thread only while nobody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

Done = Callable[[], None]

CALLS_S = 10.0
"""How long `close` waits for blocking calls: children whose process has died may never answer."""


class SharedLoop:
    """Runs an asyncio loop in the thread that waits for it, which saves two changes of threads for each `run`.

    What is still going on when `run` returns is carried on by a background thread; a `run` that comes meanwhile leaves
    its work to that thread and waits.

    Args:
        is_busy: tells, on the loop's thread, whether work is going on; `note_idle` must be called when it has ended.
        n_threads: threads for blocking calls, such as those to children.
    """

    def __init__(self, is_busy: Callable[[], bool], n_threads: int) -> None:
        self._is_busy = is_busy
        self._loop = asyncio.new_event_loop()
        # Where pb_utils' async_exec runs.
        self._blocking = ThreadPoolExecutor(n_threads, thread_name_prefix="child")
        self._loop.set_default_executor(self._blocking)
        self._idle = asyncio.Event()
        self._changed = threading.Condition()
        self._is_driven = False
        self._is_handed_over = False
        self._n_arriving = 0
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="loop", daemon=True)
        self._thread.start()

    def run(self, begin: Callable[[Done], None]) -> None:
        """Call `begin(done)` on the loop and return when `done` has been called there."""
        with self._changed:
            drives = not self._is_driven
            self._is_driven = True
            self._n_arriving += 1
        if drives:
            try:
                done = self._loop.create_future()
                self._arrive(begin, partial(done.set_result, None))
                self._loop.run_until_complete(done)
            finally:  # a task that calls sys.exit() leaves the loop without an end
                self._release_or_hand_over()
        else:
            finished = threading.Event()
            self._loop.call_soon_threadsafe(self._arrive, begin, finished.set)
            finished.wait()

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a coroutine, on the loop's thread."""
        return self._loop.create_task(work)

    def note_idle(self) -> None:
        """Say, on the loop's thread, that no work is going on."""
        self._idle.set()

    def close(self) -> None:
        """Stop, once no `run` is under way and no work is going on; leave blocking calls that do not return in time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        finish = threading.Thread(target=self._finish, name="finish", daemon=True)
        finish.start()
        finish.join(CALLS_S)

    def _finish(self) -> None:
        self._blocking.shutdown()  # once all calls have come back, each of which needs the loop
        self._loop.run_until_complete(self._cancel_all())
        self._loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        left_over = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left_over:
            task.cancel()
        await asyncio.gather(*left_over, return_exceptions=True)

    def _arrive(self, begin: Callable[[Done], None], done: Done) -> None:
        with self._changed:
            self._n_arriving -= 1
        begin(done)
        if not self._is_busy():
            self.note_idle()

    def _release(self) -> bool:
        """Stop driving, unless there is work."""
        with self._changed:
            if self._n_arriving or self._is_busy():
                return False
            self._is_driven = False
            if self._closed:
                self._changed.notify()
            return True

    def _release_or_hand_over(self) -> None:
        if not self._release():
            with self._changed:
                self._is_handed_over = True
                self._changed.notify()

    def _drive(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_handed_over or (self._closed and not self._is_driven))
                if not self._is_handed_over:
                    return
                self._is_handed_over = False
            while not self._release():  # once the loop has stopped: whoever comes next may run it at once
                self._loop.run_until_complete(self._until_idle())

    async def _until_idle(self) -> None:
        self._idle.clear()
        if self._n_arriving or self._is_busy():
            await self._idle.wait()
