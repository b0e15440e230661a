"""Run a model that a process of its own holds: see `service`."""

import fcntl
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from dualpath.inference.conversion import private_folder, python
from dualpath.inference.engines import choose
from dualpath.inference.model import Array, EngineError, Input

_GIVE_MEMORY_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 18),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 17),
}
"""For glibc: batches of many shapes need large blocks of many sizes. It otherwise keeps every one (200 MB), in an arena
for each thread."""


class Shared:
    """A model shared by all who ask for the same file in the same way below the same parent process.

    By torch everyone has a process: in one process its calls slow one another down, three streams to the speed of one.
    For one thread.

    Args:
        path: the TorchScript file.
        inputs: the model's, in their order.
        n_outputs: tensors that the model answers with.
        engine: see `inference.load`.
        threads: of a stream; OpenVINO has as many streams as fill the cores.
        chunk_rows: rows that a stream takes at a time.
        name: of the model, for messages and lists of processes.

    Attributes:
        engine: what runs it.
        reason: why it is not OpenVINO, although that was possible.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[Input],
        *,
        n_outputs: int = 1,
        engine: str = "auto",
        threads: int = 1,
        chunk_rows: int = 4,
        name: str = "",
    ) -> None:
        self._path = path.resolve()
        converted, _ = choose(self._path, inputs, engine, n_outputs)
        self._sharers = [os.getppid()] if converted else [os.getpid(), id(self)]
        self._environment = {**os.environ, **(_GIVE_MEMORY_BACK if converted else {})}
        self._order = {
            "path": str(self._path),
            "inputs": list(inputs),
            "n_outputs": n_outputs,
            "engine": engine,
            "threads": threads,
            "streams": max(1, len(os.sched_getaffinity(0)) // threads) if converted else 1,
            "chunk_rows": chunk_rows,
        }
        self._name = name
        self._connection: Connection | None = None
        self.engine = ""
        self.reason: str | None = None
        self._connect()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the model's outputs.

        Raises:
            RuntimeError: the model failed with these inputs, or its process ended meanwhile.
        """
        connection = self._connection or self._connect()
        try:
            connection.send(list(inputs))
            outputs, error = connection.recv()
        except (EOFError, OSError):
            self.close()
            raise RuntimeError(
                f"{self._name}: expected an answer, got the end of the process that computes. "
                "The next request starts it again."
            ) from None
        if error:
            raise RuntimeError(f"{self._name}: {error}")
        answers: list[Array] = outputs
        return answers

    def close(self) -> None:
        """Leave; the last one ends the process."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _connect(self) -> Connection:
        status = self._path.stat()
        version = [status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size]
        key = hashlib.sha256(json.dumps([self._sharers, self._order, version]).encode()).hexdigest()[:16]
        socket = private_folder() / f"{key}.socket"
        with socket.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._connection = Client(str(socket), "AF_UNIX")
                hello = self._connection.recv()
            except (OSError, EOFError):
                self._start(socket)
                self._connection = Client(str(socket), "AF_UNIX")
                hello = self._connection.recv()
        self.engine, self.reason = hello["engine"], hello["reason"]
        return self._connection

    def _start(self, socket: Path) -> None:
        command = [python(), "-m", "dualpath.inference.service", self._name]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError), process.stdin as order:
            json.dump({**self._order, "socket": str(socket)}, order)
        with process.stdout as answer:
            said: dict[str, Any] = json.loads(
                answer.readline()
                or '{"error": "expected the process that computes to start, got its end. See its log."}'
            )
        threading.Thread(target=process.wait, daemon=True).start()  # it ends when it likes, and leaves no zombie
        if "error" in said:
            raise EngineError(said["error"])
