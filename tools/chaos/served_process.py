"""A `dualpath serve` process, with all that belongs to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from dualpath.serving.watch import processes
from dualpath.serving.watch.processes import COMPUTES

DUALPATH = Path(sys.executable).parent / "dualpath"
REPOSITORY = Path(__file__).parents[2] / "model_repository"
SHM = Path("/dev/shm")
PORTS = [word for name in ("http", "grpc", "metrics", "health") for word in (f"--{name}-port", "0")]
START_S = 120.0
SERVE = [str(DUALPATH), "serve", "--model-repository", str(REPOSITORY), *PORTS]
"""The command that serves `REPOSITORY` on free ports."""


class Ended(Exception):
    """`dualpath serve` ended before it served. The message has what it said."""


class ServedProcess:
    """A `dualpath serve` process on free ports, under which nothing else runs.

    Attributes:
        log: what it writes to stderr.
        at: addresses by the name that `serve` prints: "gRPC", "HTTP", "metrics", "health", and "gateway"
            and "gateway-gRPC" if asked for.
    """

    def __init__(self, repository: Path = REPOSITORY, *options: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix="dualpath-chaos-", suffix=".log")
        self.log = Path(name)
        command = [str(DUALPATH), "serve", "--model-repository", str(repository), *PORTS, *options]
        with open(descriptor, "w") as stderr:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.at: dict[str, str] = {}

    def await_start(self) -> ServedProcess:
        """Return when it serves; Ended if it does not."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("Ctrl-C"):
                return self
            name, _, address = line.strip().partition(" ")
            self.at[name] = address.strip()
        self.process.wait(60)
        raise Ended(self.said().strip())

    def said(self) -> str:
        """Return what it wrote to stderr."""
        return self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> int:
        """End it by a signal; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            if self.process.stdout:
                self.process.stdout.close()

    @property
    def triton(self) -> int:
        """The process id of Triton; 0 while there is none."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if process.name() == "tritonserver":
                        return process.pid
        return 0

    def of_model(self, model: str) -> list[int]:
        """Return the process ids of a model's instances; `COMPUTES` names the process that computes for bert-large."""
        if model == COMPUTES:
            return [process.pid for process in self.processes() if COMPUTES in _arguments(process)]
        return [stub.pid for stub in processes.stubs(self.triton) if stub.model == model]

    def processes(self) -> list[psutil.Process]:
        """Return Triton and all that it has started."""
        triton = self.triton
        return list(map(psutil.Process, processes.in_session(triton))) if triton else []

    def shm_prefix(self) -> str:
        """Return how the names of Triton's regions in /dev/shm begin."""
        option = "shm-region-prefix-name="
        arguments = _arguments(psutil.Process(self.triton))
        return next(argument.partition(option)[2] for argument in arguments if option in argument)

    def shm_bytes(self) -> int:
        """Return how much of /dev/shm Triton's regions take, those that have lost their names too."""
        named = sum(path.stat().st_blocks * 512 for path in SHM.glob(f"{self.shm_prefix()}*"))
        mapped = psutil.Process(self.triton).memory_maps(grouped=False)
        return named + sum(it.rss for it in mapped if it.path.startswith(f"{SHM}/") and not Path(it.path).exists())

    def memory(self) -> dict[str, int]:
        """Return each process's own memory in bytes, without what it shares with others, by what it is."""
        found: dict[str, int] = {}
        for process in self.processes():
            with suppress(psutil.Error):
                memory = process.memory_info()
                found[_role(process)] = found.get(_role(process), 0) + memory.rss - memory.shared
        return found

    def ready(self) -> bool:
        """Ask the health endpoint."""
        with suppress(OSError), urllib.request.urlopen(self.at["health"], timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def status(self) -> dict[str, Any]:
        """Return what the health endpoint knows."""
        with urllib.request.urlopen(self.at["health"].replace("/ready", "/status"), timeout=5) as answer:
            status: dict[str, Any] = json.load(answer)
            return status

    def restarts(self) -> dict[str, int]:
        """Return what the watchdog has mended, by name."""
        return dict(self.status()["restarts"])


@contextmanager
def served(repository: Path = REPOSITORY, *options: str) -> Iterator[ServedProcess]:
    """Serve a repository while inside the block."""
    it = ServedProcess(repository, *options)
    try:
        yield it.await_start()
    finally:
        it.end()


def run(command: Sequence[str], timeout_s: float = 60, **how: Any) -> tuple[int, str]:
    """Run a command that is expected to end by itself; return its exit status and what it wrote to stderr."""
    process: subprocess.Popen[str] = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **how
    )
    try:
        said = process.communicate(timeout=timeout_s)[1].strip()
        return process.returncode, said
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return -1, f"still running after {timeout_s:g} s; {process.communicate()[1].strip()}"


def waited(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until a condition holds, no longer than so many seconds; tell whether it does."""
    deadline = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _role(process: psutil.Process) -> str:
    """Return what a process is: "tritonserver", an instance such as "cuml_0_0", or the one that computes."""
    arguments = _arguments(process)
    if COMPUTES in arguments:
        return COMPUTES
    if "stub" in (arguments or [""])[0]:
        return next((it for it in arguments if it.count("_") >= 2 and "/" not in it), "stub")
    return process.name()
