"""Break a served pipeline in every way that this machine allows, under load, and say what its callers saw.

Usage: python tools/chaos.py [WORD...]   only the tests whose name holds one of the words; all take under 15 minutes
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.utils import InferenceServerException

from dualpath.readability.contract import TOLERANCES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import Scorer, open_client
from dualpath.serving.watch import processes

REPOSITORY = Path(__file__).parent.parent / "model_repository"
TEXT = b"The children played in the garden until the rain came, and then they ran home. " * 4
WEIGHTS = (0.0, 0.5, 1.0, 0.0)
N_CLIENTS = 16
CLIENT_TIMEOUT_S = 60.0
PAUSE_S = 3.0
"""How long the load runs undisturbed before each fault."""
LONGEST_S = 60.0
CHILDREN = ("bert-large", "cuml", "preprocess", "postprocess")


@dataclass
class Call:
    """One request: when it began and ended, and its score; NaN if it failed."""

    model: str
    weight: float
    began: float
    ended: float
    score: float
    error: str = ""


class Served:
    """A `dualpath serve` process on free ports."""

    def __init__(self, log: Path) -> None:
        command = [str(Path(sys.executable).parent / "dualpath"), "serve", "--model-repository", str(REPOSITORY)]
        ports = [word for name in ("http", "grpc", "metrics", "health") for word in (f"--{name}-port", "0")]
        with log.open("a") as stderr:
            self.process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self.process.stdout is not None
        self.at: dict[str, str] = {}
        for line in self.process.stdout:
            if line.startswith("Ctrl-C"):
                break
            name, _, address = line.strip().partition(" ")
            self.at[name] = address.strip()
        else:
            raise RuntimeError(f"expected a server, got an end. Look at {log}")

    @property
    def triton(self) -> int:
        """The process id of Triton; 0 while there is none."""
        with contextlib.suppress(OSError, StopIteration):
            supervisor = next(self._children(self.process.pid))
            return next(self._children(supervisor))
        return 0

    @staticmethod
    def _children(pid: int) -> Iterator[int]:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())

    def stubs(self, model: str) -> list[int]:
        """Return the process ids of a model."""
        return [stub.pid for stub in processes.stubs(self.triton) if stub.model == model]

    def ready(self) -> bool:
        """Ask the health endpoint."""
        with contextlib.suppress(OSError), urllib.request.urlopen(self.at["health"], timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def restarts(self) -> dict[str, int]:
        """Return what the watchdog has mended, by name."""
        with urllib.request.urlopen(self.at["health"].replace("/ready", "/status"), timeout=5) as answer:
            return dict(json.load(answer)["restarts"])


@dataclass
class Load:
    """Clients that call both models with mixed weights, each on a connection of its own."""

    url: str
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(N_CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        model = ("orchestrator", "ensemble_all")[number % 2]
        weight = WEIGHTS[number // 2 % len(WEIGHTS)]
        client = open_client(self.url)
        scorer = Scorer(client, model)
        while not self._stop.is_set():
            began = time.monotonic()
            score, error = math.nan, ""
            try:
                scores = scorer.score([TEXT], np.array([weight], np.float32), client_timeout=CLIENT_TIMEOUT_S)
                score = float(scores[0])
            except InferenceServerException as failure:
                error = str(failure.message())
            self.calls.append(Call(model, weight, began, time.monotonic(), score, error))
            if error:
                self._stop.wait(0.05)
        client.close()


@dataclass
class Outcome:
    """What the callers saw of a fault."""

    name: str
    bound: str
    again_s: float
    slowest_s: float
    wrong: int
    weight_0: float
    restarts: str
    good: bool


def run(name: str, bound_s: float, fault: Callable[[Served], None], served: Served, whole: bool = False) -> Outcome:
    """Run a fault under load, until every kind of request has been answered again for a while.

    Args:
        bound_s: within which both models must serve again.
        whole: whether the orchestrator's weight-0 requests must all be answered.
    """
    before = served.restarts()
    with Load(served.at["gRPC"]) as load:
        time.sleep(PAUSE_S)
        at = time.monotonic()
        fault(served)
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline and not (_quiet(load.calls, at) and served.ready()):
            time.sleep(0.2)
    after = served.restarts()
    calls = [call for call in load.calls if call.ended >= at]
    failed = [call for call in calls if call.error]
    again_s = max((call.ended for call in failed), default=at) - at
    in_flight = [call for call in calls if call.began <= at + again_s]
    slowest_s = max((call.ended - max(call.began, at) for call in in_flight), default=0.0)
    wrong = _wrong(load.calls)
    light = [call for call in in_flight if call.model == "orchestrator" and call.weight == 0]
    weight_0 = sum(not call.error for call in light) / max(1, len(light))
    mended = {name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)}
    good = again_s <= bound_s and slowest_s <= 5 and not wrong and served.ready() and (not whole or weight_0 == 1)
    said = ", ".join(f"{name} {n} x" for name, n in mended.items())
    return Outcome(name, f"{bound_s:g} s", again_s, slowest_s, wrong, weight_0, said, good)


def _quiet(calls: list[Call], at: float) -> bool:
    """Tell whether for four seconds nothing has failed, and each kind of request was answered."""
    now = time.monotonic()
    recent = [call for call in list(calls) if call.ended > max(at, now - 4)]
    kinds = {(call.model, call.weight) for call in recent if not call.error}
    return now - at > 5 and len(kinds) == 2 * len(set(WEIGHTS)) and not any(call.error for call in recent)


def _wrong(calls: list[Call]) -> int:
    """Count the answers that are further from the first of their weight than the precision allows."""
    tolerance = TOLERANCES[Facts.of(newest(REPOSITORY / "bert-large")).precision or "float32"]
    first: dict[float, float] = {}
    good = [call for call in calls if not call.error]
    for call in good:
        first.setdefault(call.weight, call.score)
    return sum(not abs(call.score - first[call.weight]) <= tolerance for call in good)


def kill(model: str, n: int, served: Served) -> None:
    for pid in served.stubs(model)[:n]:
        os.kill(pid, signal.SIGKILL)


def stop_for(model: str, seconds: float, served: Served) -> None:
    [pid, *_] = served.stubs(model) or [0]
    if not pid:
        raise RuntimeError(f"{model}: expected a process, got none")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill_server(served: Served) -> None:
    os.kill(served.triton, signal.SIGKILL)


def hang_up(model: str, served: Served) -> None:
    """Call a thousand times and hang up after 0 to 5 ms."""
    for i in range(1000):
        client = open_client(served.at["gRPC"])
        with contextlib.suppress(InferenceServerException):
            Scorer(client, model).score([TEXT], np.array([0.5], np.float32), client_timeout=0.0001 + i % 50 / 1e4)
        client.close()


def tests() -> Iterator[tuple[str, float, Callable[[Served], None], bool]]:
    """Give each test's name, bound, fault, and whether weight 0 must be answered throughout."""
    yield "kill -9 one bert-large process", 10, partial(kill, "bert-large", 1), True
    yield "kill -9 both bert-large processes", 10, partial(kill, "bert-large", 2), True
    for model in CHILDREN[1:]:
        yield f"kill -9 {model}", 10, partial(kill, model, 1), False
    yield "kill -9 orchestrator", 20, partial(kill, "orchestrator", 1), False
    for model in (*CHILDREN, "orchestrator"):
        for seconds in (0.5, 2, 30):
            yield f"SIGSTOP {model} for {seconds:g} s", 20, partial(stop_for, model, seconds), False
    yield "kill -9 tritonserver", 20, kill_server, False
    for model in ("orchestrator", "ensemble_all"):
        yield f"1,000 calls of {model} that hang up", 60, partial(hang_up, model), False


def main(words: list[str]) -> int:
    console = Console(width=150)
    table = Table("fault", "bound", "failing for", "slowest answer", "wrong", "weight 0", "mended", "")
    log = Path(tempfile.mkstemp(prefix="dualpath-chaos-", suffix=".log")[1])
    good = True
    served = Served(log)
    try:
        for name, bound_s, fault, whole in tests():
            if words and not any(word in name for word in words):
                continue
            console.print(name)
            it = run(name, bound_s, fault, served, whole)
            good = good and it.good
            seen = f"{it.again_s:.1f} s", f"{it.slowest_s:.1f} s", str(it.wrong), f"{it.weight_0:.1%}", it.restarts
            table.add_row(it.name, it.bound, *seen, "" if it.good else "MISSED")
    finally:
        served.process.send_signal(signal.SIGINT)
        served.process.wait(60)
        console.print(table)
        console.print(f"What serve said: {log}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
