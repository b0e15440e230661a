"""The processes of a Triton server's Python models, and what they hold in /dev/shm, read from /proc."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_INSTANCE = re.compile(r"(.+)_\d+_\d+")
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Stub:
    """A process that runs an instance of a Python model.

    Attributes:
        started: by the machine's clock, in ticks: a number that is used again has another.
        stopped: whether a signal (SIGSTOP) holds it.
    """

    pid: int
    started: int
    model: str
    stopped: bool


def stubs(server_pid: int) -> list[Stub]:
    """Return the living stubs of a server."""
    return [stub for pid in _children(server_pid) if (stub := _stub(pid)) is not None]


def is_stopped(pid: int) -> bool:
    """Tell whether a signal holds a process."""
    with suppress(OSError):
        return _stat(pid)[0] == "T"
    return False


def end(stub: Stub) -> None:
    """Kill a stub, unless its number is another process's by now."""
    with suppress(OSError):
        if int(_stat(stub.pid)[19]) == stub.started:
            os.kill(stub.pid, signal.SIGKILL)


def sweep_shm(server_pid: int, prefix: str) -> int:
    """Remove the server's regions that none of its processes maps any more; return how many."""
    regions = {str(path) for path in _SHM.glob(f"{prefix}*")}
    for pid in (server_pid, *_children(server_pid)):
        regions -= set(_mapped(pid))
    for region in regions:
        Path(region).unlink(missing_ok=True)
    return len(regions)


def _stub(pid: int) -> Stub | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        stat = _stat(pid)
    except OSError:  # it has ended meanwhile
        return None
    names = [match[1] for argument in arguments if "/" not in argument and (match := _INSTANCE.fullmatch(argument))]
    if stat[0] in "ZX" or not names or "stub" not in arguments[0]:
        return None
    return Stub(pid, int(stat[19]), names[-1], stat[0] == "T")


def _stat(pid: int) -> list[str]:
    """Return a process's state and what follows it: fields 3, 4 and so on of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                yield from map(int, (task / "children").read_text().split())


def _mapped(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/dev/shm/" in line:
                yield line.split(maxsplit=5)[5]
