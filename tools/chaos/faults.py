"""Processes that are killed or stopped, and callers that hang up, under load."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from clients import TEXTS, WEIGHTS, Call, Load
from row import Found, Row, Stage
from served_process import SHM, ServedProcess, served, waited
from tritonclient.utils import InferenceServerException

from dualpath.serving.client import Scorer, open_client
from dualpath.serving.watch.processes import COMPUTES

PAUSE_S = 2.0
"""How long the load runs undisturbed before each fault."""
LONGEST_S = 60.0
CALM_S = 3.0
"""How long nothing must fail for a server to count as serving again."""
ANSWERED_S = 5.0
"""Within which each request in flight must be answered or failed."""
N_HANG_UPS = 1000

Fault = Callable[[ServedProcess], None]


def rows() -> Iterator[Row]:
    for name, model, n in (
        ("one bert-large process", "bert-large", 1),
        ("every bert-large process", "bert-large", None),
        ("what computes for bert-large", COMPUTES, 1),
    ):
        yield _under_load(f"kill -9 {name}", 10, partial(_kill, model, n), whole=True)
    for model in ("cuml", "preprocess", "postprocess"):
        yield _under_load(f"kill -9 {model}", 10, partial(_kill, model, 1))
    yield _under_load("kill -9 orchestrator", 20, partial(_kill, "orchestrator", 1))
    for model in ("bert-large", COMPUTES, "cuml", "preprocess", "postprocess", "orchestrator"):
        name = "what computes for bert-large" if model == COMPUTES else model
        for seconds in (0.5, 2, 30):
            yield _under_load(f"SIGSTOP {name} for {seconds:g} s", 20, partial(_stop_for, model, seconds))
    yield _under_load("kill -9 tritonserver", 20, _kill_server)
    yield Row("kill -9 serve", "nothing left; next start clean", _kill_serve)
    for model in ("orchestrator", "ensemble_all"):
        yield Row(
            f"{N_HANG_UPS:,} calls of {model} that hang up",
            "0 wrong; again within 20 s of each end of Triton",
            partial(_hang_ups, model),
        )


def _under_load(name: str, bound_s: float, fault: Fault, whole: bool = False) -> Row:
    bound = f"again within {bound_s:g} s, answered within {ANSWERED_S:g} s, 0 wrong"
    return Row(name, bound + (", weight 0 whole" if whole else ""), partial(_break, bound_s, fault, whole))


def _break(bound_s: float, fault: Fault, whole: bool, stage: Stage) -> Found:
    """Run a fault under load, until every kind of request has been answered again for a while."""
    served, expected = stage.served, stage.expected
    before = served.restarts()
    with Load(served.at["gRPC"]) as load:
        time.sleep(PAUSE_S)
        at = time.monotonic()
        fault(served)
        waited(lambda: _calm(load.calls, at) and served.ready(), LONGEST_S)
    calls = [call for call in load.calls if call.ended >= at]
    again_s = max((call.ended for call in calls if call.error), default=at) - at
    concerned = [call for call in calls if call.began <= at + again_s]
    slowest_s = max((call.ended - max(call.began, at) for call in concerned), default=0.0)
    n_wrong = expected.wrong(load.calls)
    light = [call for call in concerned if call.model == "orchestrator" and call.weight == 0]
    share = sum(not call.error for call in light) / max(1, len(light))
    good = again_s <= bound_s and slowest_s <= ANSWERED_S and not n_wrong and served.ready()
    mended = {name: n - before.get(name, 0) for name, n in served.restarts().items() if n > before.get(name, 0)}
    seen = [f"again after {again_s:.1f} s", f"slowest answer {slowest_s:.1f} s", f"{n_wrong} wrong"]
    if whole:
        reasons = {call.error[:60] for call in light if call.error}
        seen += [f"weight 0 {share:.1%} of {len(light):,}" + "".join(f" ({reason})" for reason in sorted(reasons)[:2])]
    seen += [f"{name} replaced" if name != "server" else "restarted" for name in mended]
    return Found(", ".join(seen), good and (not whole or share == 1))


def _calm(calls: list[Call], at: float) -> bool:
    """Tell whether for a while nothing has failed, and each kind of request was answered."""
    now = time.monotonic()
    recent = [call for call in list(calls) if call.ended > max(at, now - CALM_S)]
    kinds = {(call.model, call.weight) for call in recent if not call.error}
    enough = now - at > CALM_S + 1 and len(kinds) == 2 * len(set(WEIGHTS))
    return enough and not any(call.error for call in recent)


def _kill(model: str, n: int | None, served: ServedProcess) -> None:
    """Kill so many of a model's processes, or all."""
    pids = served.of_model(model)
    if not pids:
        raise RuntimeError(f"{model}: expected a process, got none")
    for pid in pids[:n]:
        os.kill(pid, signal.SIGKILL)


def _stop_for(model: str, seconds: float, served: ServedProcess) -> None:
    """Stop a process and let it go on; do not wait longer than it lives."""
    pid = next(iter(served.of_model(model)), 0)
    if not pid:
        raise RuntimeError(f"{model}: expected a process, got none")
    os.kill(pid, signal.SIGSTOP)
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        process = psutil.Process(pid)
        waited(lambda: process.status() == psutil.STATUS_ZOMBIE, seconds)
        os.kill(pid, signal.SIGCONT)


def _kill_server(served: ServedProcess) -> None:
    os.kill(served.triton, signal.SIGKILL)


def _kill_serve(stage: Stage) -> Found:
    """Kill `dualpath serve` itself; look for what is left; start another."""
    with served() as it:
        family, prefix = [process.pid for process in it.processes()], it.shm_prefix()
        ours = psutil.Process(it.process.pid).children(recursive=True)
        it.process.kill()
        it.process.wait()
        at = time.monotonic()
        waited(lambda: not any(map(psutil.pid_exists, family)), 20)
        gone_s = time.monotonic() - at
        left = [pid for pid in {*family, *(process.pid for process in ours)} if psutil.pid_exists(pid)]
        regions, folders = list(SHM.glob(f"{prefix}*")), list(Path("/tmp").glob(f"{prefix.rstrip('-')}*"))
    with served() as it:
        started = it.triton > 0
    seen = f"{len(left)} processes, {len(regions)} regions, {len(folders)} folders left after {gone_s:.1f} s"
    return Found(f"{seen}; next start good", not left and not regions and not folders and started)


def _hang_ups(model: str, stage: Stage) -> Found:
    """Call and hang up after 0 to 5 ms; see how long the server was away, and that it never answers wrongly."""
    served, expected = stage.served, stage.expected
    before = served.restarts().get("server", 0)
    with Load(served.at["gRPC"]) as load:
        time.sleep(PAUSE_S)
        for i in range(N_HANG_UPS):
            client = open_client(served.at["gRPC"])
            with suppress(InferenceServerException):
                Scorer(client, model).score(
                    [TEXTS[i % len(TEXTS)]], np.array([0.5], np.float32), client_timeout=0.0001 + i % 50 / 1e4
                )
            client.close()
        at = time.monotonic()
        waited(lambda: _calm(load.calls, at) and served.ready(), LONGEST_S)
    away_s = _longest_gap(load.calls)
    n_wrong = expected.wrong(load.calls)
    n_restarts = served.restarts().get("server", 0) - before
    seen = f"{n_restarts} restarts, away for {away_s:.1f} s at most, {n_wrong} wrong"
    return Found(seen, away_s <= 20 and not n_wrong and served.ready())


def _longest_gap(calls: list[Call]) -> float:
    """Return the longest time in which no request was answered, of the kind for which it was longest."""
    longest = 0.0
    for kind in {(call.model, call.weight) for call in calls}:
        ended = sorted(call.ended for call in calls if (call.model, call.weight) == kind and not call.error)
        longest = max([longest, *(b - a for a, b in pairwise(ended))])
    return longest
