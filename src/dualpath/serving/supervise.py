"""Run a server for a parent; when either ends, leave nothing behind.

A process of its own, because it must outlive a killed parent: Triton killed while it loads leaves Python stubs that
never end, and shared memory.

Usage: python -I supervise.py GRACE_S SCRATCH SHM_PREFIX COMMAND...

The first line on stdout is the command's pid. The command writes to stderr. Anything on stdin, its end included, stops
the command: SIGTERM, GRACE_S seconds, SIGKILL. Then its process group, /dev/shm/SHM_PREFIX* and the folder SCRATCH are
removed. The exit status is the command's, or 128 and the signal that ended it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(grace_s: float, scratch: Path, shm_prefix: str, command: list[str]) -> int:
    """Run the command to its end; return its exit status as a shell would."""
    wakeup, on_signal = os.pipe()
    os.set_blocking(on_signal, False)
    signal.set_wakeup_fd(on_signal)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    server: subprocess.Popen[bytes] | None = None
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True)
        with contextlib.suppress(BrokenPipeError):
            print(server.pid, flush=True)
        while not _ended(server.pid):
            readable, _, _ = select.select([sys.stdin, wakeup], [], [])
            if sys.stdin in readable or signal.SIGCHLD not in os.read(wakeup, 1):
                break
        status = _stop(server, grace_s)
    finally:
        for region in Path("/dev/shm").glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _stop(server: subprocess.Popen[bytes], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    if not _ended(server.pid):
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
