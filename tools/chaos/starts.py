"""Starts on a machine that lacks something, and what else goes on while a server starts or serves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from clients import TEXTS
from damage import copied
from row import Found, Row, Stage, together
from served_process import DUALPATH, PORTS, REPOSITORY, SERVE, SHM, ServedProcess, run, served, waited

from dualpath.serving.client import Scorer, open_client

ROOT = REPOSITORY.parent
_MORTAL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command: it obeys the rights of files, also as root."""
CLOSED_TESTS = ("tests/server/test_closed.py", "tests/browser/test_closed_to_pages.py")


def rows() -> Iterator[Row]:
    sentence = "a sentence, exit code 1 or 2, nothing left"
    yield Row("port taken", sentence, _leaving_nothing(_port_taken))
    yield Row("no permission: repository, key folder", sentence, _leaving_nothing(_no_permission))
    yield Row("disk full: start, score --output, build", sentence, _disk_full)
    yield Row("/dev/shm full", sentence, _leaving_nothing(_shm_full))
    yield Row("two serves on one repository", "both serve the same scores", _two_serves)
    yield Row("build while serving", "the served version stays, the next start is good", _build_while_serving)
    within = "exit code 0 or 130 within 15 s, nothing left"
    yield Row("SIGTERM while loading", within, _leaving_nothing(_terminated_while_loading))
    yield Row("load, trace, log, shared memory without the key", "refused by HTTP, gRPC, Chromium", _closed)


def _leaving_nothing(measure: Callable[[Stage], Found]) -> Callable[[Stage], Found]:
    """Ask of a row, too, that dualpath leaves nothing in /tmp and /dev/shm, others' servers aside."""

    def measured(stage: Stage) -> Found:
        before = _leftovers()
        found = measure(stage)
        waited(lambda: _leftovers() <= before, 15)  # for the last process to end
        left = sorted(path.name for path in _leftovers() - before if not _is_in_use(path))
        return Found(f"{found.seen}; {f'LEFT: {left[:3]}' if left else 'nothing left'}", found.good and not left)

    return measured


def _leftovers() -> set[Path]:
    found = {path for folder in (SHM, Path("/tmp")) for path in folder.glob("dualpath-*")}
    return {path for path in found if path.suffix != ".log"}


def _is_in_use(path: Path) -> bool:
    stem = path.name.partition("-")[2].partition("-")[0]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(stem in argument for argument in process.cmdline()):
                return True
    return False


def _told(status: int, said: str, *words: str) -> bool:
    """Tell whether a command ended with a sentence that holds these words, and not with a traceback."""
    return status in (1, 2) and "Traceback" not in said and all(word in said for word in words)


def _port_taken(stage: Stage) -> Found:
    results = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name in ("http", "grpc", "metrics", "health", "gateway"):
            status, said = run([*SERVE, f"--{name}-port", port])
            results.append((name, status, said, _told(status, said, f"--{name}-port", port, "already in use")))
    return together(*results)


def _no_permission(stage: Stage) -> Found:
    """Start without the right to read the repository, to write the key, and to write an output."""
    with tempfile.TemporaryDirectory() as folder:
        home, repository = Path(folder) / "home", Path(folder) / "closed"
        home.mkdir(mode=0o555)
        repository.mkdir(mode=0)
        environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_RUNTIME_DIR": ""}
        unread = run([*_MORTAL, str(DUALPATH), "serve", "--model-repository", str(repository), *PORTS])
        no_key = run([*_MORTAL, *SERVE], env=environment)
        unwritten = run(
            [*_MORTAL, str(DUALPATH), "score", "--local", "--output", f"{home}/out.csv", "The cat."], cwd=ROOT
        )
    return together(
        ("repository unreadable", *unread, _told(*unread, "closed")),
        ("key folder unwritable", *no_key, _told(*no_key, "home")),
        ("score --output unwritable", *unwritten, _told(*unwritten, "out.csv")),
    )


@contextmanager
def _small_mount(n_bytes: int) -> Iterator[Path]:
    """Give a folder on a file system of its own of so many bytes."""
    with tempfile.TemporaryDirectory(prefix="dualpath-chaos-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _disk_full(stage: Stage) -> Found:
    served = stage.served
    with _small_mount(1 << 16) as full:
        with suppress(OSError):
            (full / "filling").write_bytes(b"x" * (1 << 20))
        # All folders that Python would take for temporary files.
        fill = " && ".join(f"mount --bind {full} {folder}" for folder in ("/var/tmp", "/tmp"))
        start = run(["unshare", "--mount", "sh", "-c", f"{fill} && cd /sys && exec {' '.join(SERVE)}"])
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as texts:
            texts.write("The cat sat on the mat.\n" * 5000)
            texts.flush()
            score = [str(DUALPATH), "score", "--file", texts.name, "--bert-weight", "0", "--url", served.at["gRPC"]]
            output = run([*score, "--output", str(full / "out.txt")])
            with (full / "stdout").open("wb") as stdout:
                stream = subprocess.run(score, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
    with _small_mount(20 << 20) as small:
        repository = small / "model_repository"
        shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("*.pt", "*.tl", "*.json"))
        build = run([str(DUALPATH), "build", "--model-repository", str(repository)], 120)
        kept = sorted(path.name for path in repository.glob("*/[0-9]*/*") if path.suffix in (".pt", ".tl"))
    return together(
        ("start", *start, _told(*start, "temporary")),
        ("score --output", *output, _told(*output, "out.txt", "space")),
        ("score > full", stream.returncode, stream.stderr, _told(stream.returncode, stream.stderr, "space")),
        ("build", *build, _told(*build, "space") and not kept),
    )


def _shm_full(stage: Stage) -> Found:
    script = f"mount -t tmpfs -o size=40m tmpfs /dev/shm && exec {' '.join(SERVE)}"
    status, said = run(["unshare", "--mount", "sh", "-c", script], 60)
    return together(("start", status, said, _told(status, said, "/dev/shm")))


def _scores(it: ServedProcess) -> list[float]:
    client = open_client(it.at["gRPC"])
    try:
        weights = np.full(len(TEXTS), 0.5, np.float32)
        return [float(score) for score in Scorer(client, "ensemble_all").score(list(TEXTS), weights)]
    finally:
        client.close()


def _two_serves(stage: Stage) -> Found:
    """Start two at the same moment."""
    both = [ServedProcess(), ServedProcess()]
    try:
        scores = [_scores(it.await_start()) for it in both]
        same = scores[0] == scores[1]
        ended = [it.end() for it in both]
    finally:
        for it in both:
            it.end()
    return Found(f"{'the same' if same else 'OTHER'} scores; exit codes {ended}", same and ended == [0, 0])


def _build_while_serving(stage: Stage) -> Found:
    with copied() as repository:
        with served(repository) as it:
            before = _scores(it)
            status, said = run([str(DUALPATH), "build", "--force", "--model-repository", str(repository)], 400)
            same, restarts = _scores(it) == before, it.restarts()
        with served(repository) as it:
            after = _scores(it)
    close = bool(np.allclose(after, before, atol=1e-3))
    seen = f"build: {status}{'' if status == 0 else ' ' + said[-200:]}; scores {'stayed' if same else 'CHANGED'}"
    seen += f"; after the next start {'the same' if close else 'OTHER'}; {sum(restarts.values())} restarts"
    return Found(seen, status == 0 and same and close and not restarts)


def _terminated_while_loading(stage: Stage) -> Found:
    seen, good = [], True
    for delay_s in (0.3, 1.0, 2.0, 3.0):
        it = ServedProcess()
        time.sleep(delay_s)
        began = time.monotonic()
        status = it.end(signal.SIGTERM)
        elapsed_s = time.monotonic() - began
        quiet = "Traceback" not in it.said()
        # Before Python has put its handlers up, the signal itself ends it.
        good = good and status in (0, 130, -signal.SIGTERM) and elapsed_s < 15 and quiet
        seen.append(f"after {delay_s:g} s: {status} within {elapsed_s:.1f} s{'' if quiet else ' TRACEBACK'}")
    return Found("; ".join(seen), good)


def _closed(stage: Stage) -> Found:
    """Run the suite's own tests of it."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *CLOSED_TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    return Found(done.stdout.strip().splitlines()[-1].strip("= "), done.returncode == 0)
