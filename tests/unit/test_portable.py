"""The commands that talk to a server elsewhere, without what only Linux has: as on macOS and Windows."""

import json
import subprocess
import sys

import pytest
from served_models import PAIR, served

ELSEWHERE = """
import asyncio, multiprocessing, os, pathlib, signal, sys
import psutil  # each system has its own
for module in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[module] = None
for name in ("SIGHUP", "SIGKILL", "SIGCHLD"):
    delattr(signal, name)
for name in ("sched_getaffinity", "killpg", "sysconf", "nice", "getuid", "fork"):
    delattr(os, name)
is_file, pathlib.Path.is_file = pathlib.Path.is_file, lambda path: not str(path).startswith("/proc") and is_file(path)
from dualpath.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def url():
    with served(PAIR) as (url, _):
        yield url


def elsewhere(*arguments):
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def test_the_toolkit_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.replace("from dualpath.__main__ import main\nmain()", "import dualpath.bls")]
    )
    assert done.returncode == 0


def test_compare_url_compares_models_on_a_server(url):
    done = elsewhere("compare", "--url", url, "--duration", "0.3", "--concurrency", "1", "--batch", "1", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert int(result["environment"]["cores"]) > 0


def test_score_url_is_not_refused_for_the_system(url):
    done = elsewhere("score", "--url", url, "The cat sat on the mat.")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
