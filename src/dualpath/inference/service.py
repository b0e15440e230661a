"""A loaded model in a process of its own, shared by those who ask for it: the instances of one model on one server.

By OpenVINO the model is there once, however many instances there are, and runs in two ways: streams of few threads, one
call each, which win throughput; and all threads for one call, which wins a lone call's latency. What is in flight
decides. An instance waits for its answer in the meantime, so that Triton's queue, its metrics and its errors stay as
they are; and should this process die, every caller is told, and the next call starts it again.
"""

import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.inference.engines import load
from dualpath.inference.model import Array, EngineError, Input, LoadedModel

NICENESS = 10
LINGER_S = 5.0
"""How long the process stays when nobody is connected: a reload may bring the next instances at once."""


class Turns:
    """Lets so many in at a time, in the order in which they came; `threading.Semaphore` prefers whoever runs."""

    def __init__(self, n_places: int) -> None:
        self._n_free = n_places
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._n_free:
                self._n_free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._n_free += 1


class TwoWays:
    """Runs each call on as many streams as it fills, or on all cores if calls come one at a time.

    A call counts as alone if none is in flight when it comes, nor was any beside the call before it. Busy callers leave
    gaps between an answer and the next call: a wide call that begins in one has more threads beside it than cores.

    Args:
        narrow: has `streams` streams.
        wide: has one stream of all threads; None if there is nothing to gain by it.
        chunk_rows: rows that a stream takes at a time, whose activations stay in the processor's cache.
    """

    def __init__(self, narrow: LoadedModel, wide: LoadedModel | None, streams: int, chunk_rows: int) -> None:
        self._narrow, self._wide, self._streams, self._chunk_rows = narrow, wide, streams, chunk_rows
        self._pool = ThreadPoolExecutor(thread_name_prefix="stream")
        self._turns = Turns(streams)
        self._lock = threading.Lock()
        self._n_open = 0
        self._is_busy = False  # a call in flight, or the last one, has had another beside it

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one call; other threads may run theirs."""
        with self._lock:
            self._n_open += 1
            is_alone = self._n_open == 1
            wide = None if self._is_busy or not is_alone else self._wide
            self._is_busy = not is_alone
        try:
            return self._answer(self._chunks(inputs), wide)
        finally:
            with self._lock:
                self._n_open -= 1

    def _answer(self, chunks: list[list[Array]], wide: LoadedModel | None) -> list[Array]:
        if len(chunks) == 1:
            return self._run(chunks[0], wide or self._narrow)
        answers: list[list[Array]] = [[]] * len(chunks)
        todo = iter(range(len(chunks)))

        def work() -> None:
            for number in todo:
                answers[number] = self._run(chunks[number], self._narrow)

        # A call never has more chunks waiting than there are streams, so that it does not keep others from them.
        helpers = [self._pool.submit(work) for _ in range(min(len(chunks), self._streams) - 1)]
        work()
        for helper in helpers:
            helper.result()
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _chunks(self, inputs: Sequence[Array]) -> list[list[Array]]:
        n_rows, chunk_rows = len(inputs[0]), self._chunk_rows
        if self._narrow.is_exact:  # else a row's last bits would tell how many rows came with it
            chunk_rows = min(chunk_rows, -(-n_rows // self._streams))
        starts = range(0, max(n_rows, 1), max(chunk_rows, 1))
        return [[array[start : start + chunk_rows] for array in inputs] for start in starts]

    def _run(self, chunk: list[Array], model: LoadedModel) -> list[Array]:
        with self._turns:
            return model.run(chunk)


def load_two_ways(order: dict[str, Any]) -> tuple[TwoWays, LoadedModel]:
    """Load a model as an order says; see `client.Shared`."""
    inputs = [Input(dtype, tuple(shape)) for dtype, shape in order["inputs"]]
    path, threads, n_outputs = Path(order["path"]), order["threads"], order["n_outputs"]
    streams = order["streams"]
    narrow = load(path, inputs, order["engine"], threads=threads, streams=streams, n_outputs=n_outputs)
    wide = None
    if narrow.is_exact and streams > 1:
        wide = load(path, inputs, order["engine"], threads=threads * streams, n_outputs=n_outputs)
    return TwoWays(narrow, wide, streams, order["chunk_rows"]), narrow


class Service:
    """Answers calls that come over connections, one thread each."""

    def __init__(self, model: TwoWays, hello: dict[str, Any]) -> None:
        self._model, self._hello = model, hello
        self._changed = threading.Condition()
        self._n_connected = 0

    def answer(self, connection: Connection) -> None:
        """Answer one connection's calls until it ends."""
        try:
            connection.send(self._hello)
            while True:
                inputs = connection.recv()
                answer: tuple[list[Array] | None, str | None]
                try:
                    answer = self._model.run(inputs), None
                except EngineError as error:
                    answer = None, f"{error}"
                except Exception as error:
                    answer = None, f"{type(error).__name__}: {error}"
                connection.send(answer)
        except (EOFError, OSError):
            pass
        finally:
            connection.close()
            with self._changed:
                self._n_connected -= 1
                self._changed.notify()

    def accept(self, listener: Listener) -> None:
        """Take connections, each into a thread."""
        while True:
            connection = listener.accept()
            with self._changed:
                self._n_connected += 1
                self._changed.notify()
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def wait_until_left(self) -> None:
        """Return when nobody has been connected for a while."""
        with self._changed:
            while self._changed.wait_for(lambda: self._n_connected > 0, LINGER_S):
                self._changed.wait_for(lambda: self._n_connected == 0)


def main() -> None:
    """Load the model that the order on standard input names, say so on standard output, and serve it at a socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its instances and so this
    os.nice(NICENESS)  # long computations yield the cores to the steps that take a millisecond
    order = json.load(sys.stdin)
    try:
        model, loaded = load_two_ways(order)
    except Exception as error:
        print(json.dumps({"error": f"{error}"}), flush=True)
        return
    socket = Path(order["socket"])
    socket.unlink(missing_ok=True)
    with Listener(str(socket), "AF_UNIX", backlog=16) as listener:
        service = Service(model, {"engine": loaded.engine, "reason": loaded.reason})
        threading.Thread(target=service.accept, args=(listener,), daemon=True).start()
        print("{}", flush=True)
        service.wait_until_left()


if __name__ == "__main__":
    main()
