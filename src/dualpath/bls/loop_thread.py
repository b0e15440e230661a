"""An event loop in a thread of its own, for what waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from typing import Any

from dualpath.bls.tensors import use_gpu

CALLS_S = 10.0
"""How long `close` waits for blocking calls: children whose process has died may never answer."""


class LoopThread:
    """Runs coroutines.

    Args:
        n_threads: threads for blocking calls, such as those to children.
        gpu: the GPU that is these threads' current one; None or 0 for CUDA's default.
    """

    def __init__(self, n_threads: int, gpu: int | None) -> None:
        self._gpu = gpu
        self._loop = asyncio.new_event_loop()
        self._blocking = ThreadPoolExecutor(n_threads, "child", self._use_gpu)
        self._loop.set_default_executor(self._blocking)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def start(self, works: Sequence[tuple[Coroutine[Any, Any, None], Context]]) -> None:
        """Start coroutines at once, from any thread."""
        self._loop.call_soon_threadsafe(self._create_tasks, works)

    def cancel_all(self, why: str) -> None:
        """Cancel all that is under way, from any thread."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel(why) for task in tuple(self._tasks)])

    def close(self) -> None:
        """Stop; leave blocking calls that do not return in time."""
        finish = threading.Thread(target=self._finish, name="finish", daemon=True)
        finish.start()
        finish.join(CALLS_S)

    def _use_gpu(self) -> None:
        with suppress(Exception):  # the work that needs it fails too, and has a caller to be told
            use_gpu(self._gpu)

    def _run(self) -> None:
        self._use_gpu()
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a graph, which its caller was told of
                continue
            return

    def _create_tasks(self, works: Sequence[tuple[Coroutine[Any, Any, None], Context]]) -> None:
        for work, context in works:
            task = self._loop.create_task(work, context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _finish(self) -> None:
        self._blocking.shutdown()  # once all calls have come back, each of which needs the loop
        asyncio.run_coroutine_threadsafe(self._cancel_left_over(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @staticmethod
    async def _cancel_left_over() -> None:
        left_over = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left_over:
            task.cancel()
        await asyncio.gather(*left_over, return_exceptions=True)
