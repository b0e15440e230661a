"""The processes of a Triton server's Python models, and what they hold in /dev/shm, read from /proc."""

import ctypes
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ALONE_S = 10.0
"""How long a server must be the only one that maps a region before it counts as a dead process's."""

_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_INSTANCE = re.compile(r"(.+)_\d+_\d+")
_SHM = Path("/dev/shm")
COMPUTES = "dualpath.inference.service"
"""In the arguments of a process that computes for a model, before the model's name."""


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
    return [
        Stub(pid, int(stat[19]), names[-1], stat[0] == "T")
        for pid, arguments, stat in _living(server_pid)
        if int(stat[1]) == server_pid and "stub" in arguments[0] and (names := _instances(arguments))
    ]


def helpers(server_pid: int) -> list[Stub]:
    """Return the living processes that compute for a server's stubs, whichever of these has started them."""
    return [
        Stub(pid, int(stat[19]), arguments[arguments.index(COMPUTES) + 1], stat[0] == "T")
        for pid, arguments, stat in _living(server_pid)
        if COMPUTES in arguments[:-1]
    ]


def is_stopped(pid: int) -> bool:
    """Tell whether a signal holds a process."""
    with suppress(OSError):
        return _stat(pid)[0] == "T"
    return False


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds; 0 if it has ended."""
    with suppress(OSError):
        return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def end(stub: Stub) -> None:
    """Kill a stub, unless its number is another process's by now."""
    with suppress(OSError):
        if int(_stat(stub.pid)[19]) == stub.started:
            os.kill(stub.pid, signal.SIGKILL)


class Sweeper:
    """Gives back what killed processes leave in /dev/shm: a server maps a dead instance's region to its own end.

    Args:
        prefix: how the names of the server's regions begin.
        clock: seconds.
    """

    def __init__(self, prefix: str, clock: Callable[[], float]) -> None:
        self._prefix, self._clock = prefix, clock
        self._alone: dict[str, float] = {}

    def look(self, server_pid: int) -> int:
        """Remove regions that no process maps, and those that the server alone has mapped for a while: it makes one for
        each process that it starts, which maps it at once. Return how many."""
        now = self._clock()
        regions = {str(path) for path in _SHM.glob(f"{self._prefix}*")}
        ours = set(_mapped(server_pid))
        others = {region for pid in in_session(server_pid) if pid != server_pid for region in _mapped(pid)}
        self._alone = {region: self._alone.get(region, now) for region in regions & ours - others}
        dead = (regions - ours - others) | {it for it, since in self._alone.items() if now - since >= ALONE_S}
        for region in dead:
            with suppress(OSError):
                _empty(region)
                os.unlink(region)
        return len(dead)


def _empty(region: str) -> None:
    """Give a region's memory back, also if it is mapped: whoever reads it then finds zeros."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    descriptor = os.open(region, os.O_RDWR)
    try:
        if call(descriptor, _PUNCH_HOLE, 0, os.fstat(descriptor).st_size):
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(descriptor)


def _living(server_pid: int) -> Iterator[tuple[int, list[str], list[str]]]:
    """Give the number, the arguments and the `_stat` of each living process of the server's session."""
    for pid in in_session(server_pid):
        with suppress(OSError):  # it has ended meanwhile
            arguments, stat = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0"), _stat(pid)
            if stat[0] not in "ZX":
                yield pid, arguments, stat


def _instances(arguments: list[str]) -> list[str]:
    """Return the models of the instances that arguments name, such as cuml_0_1."""
    return [match[1] for argument in arguments if "/" not in argument and (match := _INSTANCE.fullmatch(argument))]


def _stat(pid: int) -> list[str]:
    """Return a process's state and what follows it: fields 3, 4 and so on of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def in_session(server_pid: int) -> Iterator[int]:
    """Give the processes of the server's session. The kernel's own list of a process's children leaves some out while
    others end, as they do whenever a model is loaded."""
    with suppress(OSError):
        session = os.getsid(server_pid)
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            with suppress(OSError):
                if os.getsid(pid) == session:
                    yield pid


def _mapped(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/dev/shm/" in line:
                yield line.split(maxsplit=5)[5]
