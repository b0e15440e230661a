"""Memory of every process, and /dev/shm, over many requests and over killed processes."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from clients import WEIGHTS, Load
from row import Found, Row, Stage
from served_process import ServedProcess, served, waited

PARTS = 10
SKIPPED = 3
"""Parts after which buffers have grown to what the load asks for."""
N_WARM_UP = 4_000
"""Mixed requests before: OpenVINO keeps memory for every shape that it has met."""
MOST_PER_1000 = 1e6
"""Bytes that a process may grow by in a thousand requests, for it to count as flat."""
KILLS = ("cuml", "preprocess", "bert-large", "postprocess", "cuml", "preprocess", "postprocess", "bert-large", "cuml")
"""After a first one of bert-large: of each model no more than the watchdog mends by new processes."""
SETTLED_S = 16.0
"""After a kill the watchdog waits for so long, and some seconds, before it gives shared memory back."""


def rows() -> Iterator[Row]:
    bound = f"flat: below {MOST_PER_1000 / 1e6:g} MB per 1,000 requests in every process; /dev/shm the same"
    yield Row("slopes: 20,000 requests at weight 0", bound, partial(_requests, 20_000, (0.0,)))
    yield Row("slopes: 2,000 mixed requests", bound, partial(_requests, 2_000, WEIGHTS))
    yield Row(f"slopes: {len(KILLS) + 1} kills", "/dev/shm and Triton's memory flat: below 1 MB per kill", _kills)


def _requests(n: int, weights: Sequence[float], stage: Stage) -> Found:
    with served() as it:
        # At weight 0 the ensemble runs BERT all the same, at a hundredth of the rate.
        models = ("orchestrator",) if set(weights) == {0.0} else ("orchestrator", "ensemble_all")
        with Load(it.at["gRPC"], n_requests=N_WARM_UP):
            pass
        samples: list[dict[str, int]] = []
        shm: list[int] = []
        n_failed, began = 0, time.monotonic()
        for _ in range(PARTS):
            with Load(it.at["gRPC"], weights, models, n // PARTS) as load:
                pass
            n_failed += sum(bool(call.error) for call in load.calls)
            samples.append(it.memory())
            shm.append(it.shm_bytes())
        elapsed_s = time.monotonic() - began
    slopes = {name: _slope([sample.get(name, 0) for sample in samples], n) for name in samples[-1]}
    worst = max(slopes, key=lambda name: slopes[name])
    shm_slope = _slope(shm, n)
    seen = f"{worst} {slopes[worst] / 1e6:+.2f} MB, /dev/shm {shm_slope / 1e6:+.2f} MB per 1,000 requests"
    seen += f"; {n_failed} failed; {n / elapsed_s:,.0f} requests/s"
    return Found(seen, slopes[worst] < MOST_PER_1000 and shm_slope < MOST_PER_1000 and not n_failed)


def _slope(values: Sequence[int], n_requests: int) -> float:
    """Return bytes per thousand requests, by least squares over the parts after the first few."""
    kept = np.array(values[SKIPPED:], float)
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0] / (n_requests / PARTS) * 1000)


def _kills(stage: Stage) -> Found:
    with served() as it, Load(it.at["gRPC"]):
        time.sleep(3)
        _kill(it, "bert-large")
        time.sleep(SETTLED_S)
        shm, memory = it.shm_bytes(), []
        for model in KILLS:
            _kill(it, model)
            memory.append(it.memory()["tritonserver"])
        time.sleep(SETTLED_S)
        restarts = it.restarts().get("server", 0)
        shm_slope = (it.shm_bytes() - shm) / len(KILLS)
        slope = float(np.polyfit(np.arange(len(memory[SKIPPED:])), memory[SKIPPED:], 1)[0])
    seen = f"/dev/shm {shm_slope / 1e6:+.2f} MB, tritonserver {slope / 1e6:+.2f} MB per kill; {restarts} restarts"
    return Found(seen, shm_slope < 1e6 and slope < 1e6)


def _kill(it: ServedProcess, model: str) -> None:
    """Kill one of a model's processes, and return when it has been replaced."""
    pids = it.of_model(model)
    os.kill(pids[0], signal.SIGKILL)
    if not waited(lambda: len({*it.of_model(model)} - {*pids}) >= len(pids) and it.ready(), 30):
        raise RuntimeError(f"{model}: expected it to be replaced within 30 s, got nothing")
    time.sleep(1)
