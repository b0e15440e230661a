"""An event loop whose clock jumps to the next thing that is due, so that an hour of load takes milliseconds."""

import asyncio
from types import SimpleNamespace


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        self.now = 0.0
        really_select = self._selector.select

        def select(timeout=None):
            assert timeout is not None, "nothing is due: the test would wait for ever"
            events = really_select(0)
            if not events:
                self.now += timeout
            return events

        self._selector.select = select

    def time(self):
        return self.now


def run(coroutine, module, monkeypatch):
    """Run a coroutine to its end; `module` sees the virtual clock as `time`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        monkeypatch.setattr(
            module, "time", SimpleNamespace(perf_counter=loop.time, process_time=lambda: loop.time() / 4)
        )
        return runner.run(coroutine)
