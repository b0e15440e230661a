"""Run a server for a parent; when either ends, leave nothing behind.

A process of its own, because it must outlive a killed parent: Triton killed while it loads leaves Python stubs that
never end, and shared memory.

Usage: python -I supervise.py GRACE_S SCRATCH SHM_PREFIX COMMAND...

The first line on stdout is the command's pid. The command writes to stderr. Anything on stdin, its end included, stops
the command: SIGTERM, GRACE_S seconds, SIGKILL; "k" leaves out the first two. Then its process group,
/dev/shm/SHM_PREFIX* and the folder SCRATCH are removed. The exit status is the command's, or 128 and the signal that
ended it.

An argument that is the name of an environment variable DUALPATH_ARGUMENT_* stands for its value, which other users of
the machine cannot read in /proc/PID/cmdline, nor the command's children in their environment.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HIDDEN = "DUALPATH_ARGUMENT_"

_PTRACE_TRACEME, _PTRACE_DETACH = 0, 17
_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23


def main(grace_s: float, scratch: Path, shm_prefix: str, command: list[str]) -> int:
    """Run the command to its end; return its exit status as a shell would."""
    wakeup, on_signal = os.pipe()
    os.set_blocking(on_signal, False)
    signal.set_wakeup_fd(on_signal)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    os.umask(0o077)  # traces and logs are files
    _keep_niceness()
    server: subprocess.Popen[bytes] | None = None
    try:
        server = _start(command)
        with contextlib.suppress(BrokenPipeError):
            print(server.pid, flush=True)
        while not _ended(server.pid):
            readable, _, _ = select.select([sys.stdin, wakeup], [], [])
            if sys.stdin in readable or signal.SIGCHLD not in os.read(wakeup, 1):
                break
        at_once = bool(select.select([sys.stdin], [], [], 0)[0]) and os.read(sys.stdin.fileno(), 1) == b"k"
        status = _stop(server, 0 if at_once else grace_s)
    finally:
        for region in Path("/dev/shm").glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    if any(argument.startswith(HIDDEN) for argument in command):
        try:
            server = _popen(command, partial(_ptrace, _PTRACE_TRACEME, 0))
        except subprocess.SubprocessError:  # this machine lets no process trace its child
            pass
        else:
            try:
                _put_hidden(server.pid)
                _ptrace(_PTRACE_DETACH, server.pid)
                return server
            except (OSError, ValueError):
                server.kill()
                server.wait()
    values = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(HIDDEN)}
    return _popen([values.get(argument, argument) for argument in command])


def _keep_niceness() -> None:
    """Let no thread of the command lower its niceness.

    Triton's threads set theirs to 0 if they may, and one of them waits in a busy loop for a model to take requests. In
    a server that was started by `nice`, or by Ray, which runs all at 15, the models' processes would starve beside it.
    """
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)  # fails for those who, as a rule, may do neither


def _popen(command: list[str], first: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True, preexec_fn=first
    )


def _ptrace(request: int, pid: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes, call.restype = [ctypes.c_long] * 4, ctypes.c_long
    if call(request, pid, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def _put_hidden(pid: int) -> None:
    """Let the arguments of a process that its exec has stopped point to the values of their variables.

    /proc/PID/cmdline shows the memory that exec filled, not what the pointers name; /proc/PID/environ, which has the
    values, is its user's alone.
    """
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    # Field 28 is where the stack begins: argc, the pointers to the arguments, 0, those to the environment, 0.
    stack = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[25])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:

        def read(address: int, n_bytes: int) -> bytes:
            memory.seek(address)
            return memory.read(n_bytes)

        def point(slot: int, address: int) -> None:
            memory.seek(slot)
            memory.write(struct.pack("N", address))

        def strings(slot: int) -> dict[int, tuple[int, bytes]]:
            found = {}
            while pointer := struct.unpack("N", read(slot, 8))[0]:
                found[slot] = pointer, read(pointer, 4096).split(b"\0")[0]
                slot += 8
            return found

        arguments = strings(stack + 8)
        environment = strings(stack + 8 * (len(arguments) + 2))
        other = next(pointer for pointer, text in environment.values() if not text.startswith(HIDDEN.encode()))
        values = {}
        for slot, (pointer, text) in environment.items():
            name = text.partition(b"=")[0]
            if name.startswith(HIDDEN.encode()):
                values[name] = pointer + len(name) + 1
                point(slot, other)
        for slot, (_, text) in arguments.items():
            if text in values:
                point(slot, values[text])


def _stop(server: subprocess.Popen[bytes], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    if grace_s and not _ended(server.pid):
        server.send_signal(signal.SIGTERM)
    while not _ended(server.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Not reaped yet, so that the group's number is still its own; the stubs are in it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


def _ended(pid: int) -> bool:
    """Say whether the child has ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
