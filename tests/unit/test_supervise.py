"""The supervisor, on a command that litters as Triton does when it is killed while it loads models."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualpath.serving import supervise

IGNORING = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
LITTERING = "import subprocess, sys, time\nprint(subprocess.Popen(['sleep', '300']).pid, file=sys.stderr, flush=True)\n"
SERVING = "time.sleep(300)"


def gone(pid: int) -> bool:
    """Say whether a process ends within a second; one that nobody reaps has ended too."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("code", "how", "expected"),
    [
        (LITTERING + SERVING, "close stdin", 128 + signal.SIGTERM),
        (LITTERING + SERVING, "write to stdin", 128 + signal.SIGTERM),
        (LITTERING + SERVING, "SIGTERM", 128 + signal.SIGTERM),
        (LITTERING + "sys.exit(3)", "wait", 3),
        (IGNORING + LITTERING + SERVING, "close stdin", 128 + signal.SIGKILL),
    ],
)
def test_supervisor_leaves_nothing_behind(tmp_path, code, how, expected):
    scratch, log, region = tmp_path / "scratch", tmp_path / "log", Path(f"/dev/shm/dualpath-test-{os.getpid()}-region")
    scratch.mkdir()
    region.touch()
    grace_s = "1"
    command = [sys.executable, "-I", supervise.__file__, grace_s, str(scratch), region.name, sys.executable, "-c", code]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output) as supervisor,
    ):
        pid = int(supervisor.stdout.readline())
        while not log.read_text().endswith("\n"):
            time.sleep(0.01)
        child = int(log.read_text())
        if how == "SIGTERM":
            supervisor.terminate()
        elif how == "write to stdin":
            supervisor.stdin.write(b"stop")
            supervisor.stdin.flush()
        elif how == "close stdin":
            supervisor.stdin.close()
        assert supervisor.wait(timeout=10) == expected
    assert gone(pid)
    assert gone(child)
    assert not region.exists()
    assert not scratch.exists()


SHOWING = """
import os, pathlib, subprocess, sys
shown = pathlib.Path("/proc/self/cmdline").read_text()
inherited = subprocess.run(["env"], capture_output=True, text=True).stdout
print(sys.argv[1:], "SECRET" in shown, "SECRET" in inherited, file=sys.stderr)
"""


@pytest.mark.parametrize("may_trace", [True, False])
def test_hidden_arguments_reach_the_command_and_no_other_user(tmp_path, may_trace):
    script = supervise.__file__
    if not may_trace:
        script = tmp_path / "supervise.py"
        script.write_text(Path(supervise.__file__).read_text().replace("= 0, 17", "= 99, 99"))
    hidden = {"DUALPATH_ARGUMENT_0": "--key=SECRET", "DUALPATH_ARGUMENT_1": "--other=SECRET"}
    (tmp_path / "showing.py").write_text(SHOWING)
    command = [
        sys.executable,
        str(tmp_path / "showing.py"),
        "first",
        "DUALPATH_ARGUMENT_1",
        "DUALPATH_ARGUMENT_0",
        "last",
    ]
    with subprocess.Popen(
        [sys.executable, "-I", script, "1", str(tmp_path / "scratch"), "none", *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | hidden,
    ) as supervisor:
        said = supervisor.stderr.read()
    assert said == f"['first', '--other=SECRET', '--key=SECRET', 'last'] {not may_trace} False\n"


NICE = """
import os, sys
try:
    os.setpriority(os.PRIO_PROCESS, 0, 0)
except PermissionError:
    print("refused", file=sys.stderr)
print(os.getpriority(os.PRIO_PROCESS, 0), file=sys.stderr)
"""


def test_no_thread_of_the_command_is_less_nice_than_the_server_was_started(tmp_path):
    supervisor = ["nice", "-n", "3", sys.executable, "-I", supervise.__file__, "1", str(tmp_path / "none"), "none"]
    expected = os.getpriority(os.PRIO_PROCESS, 0) + 3
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*supervisor, sys.executable, "-c", NICE], **pipes, text=True) as process:
        assert process.stderr.read() == f"refused\n{expected}\n"
