"""Four times as many requests as the orchestrator can answer, at random times, however many are unanswered."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from clients import N_CLIENTS, TEXTS
from row import Found, Row, Stage
from tritonclient.grpc import service_pb2

from dualpath.compare.connection import Send, over_grpc, serialise
from dualpath.compare.load import Contender, Turn, run_open_turn, run_turn
from dualpath.serving.client import scored_inputs

OVERLOAD_S = 60.0
LIGHT_PER_S = 20.0
"""Requests of weight 0 beside the others."""
LATE = 3.0
"""An admitted request's p99 at most, in p99s at 80 % load; also the deadline that the clients state."""
REFUSED_MS = 50.0
LIGHT_MS = 100.0
PREFERRED = -10
"""The niceness of this process while it measures."""


def rows() -> Iterator[Row]:
    yield Row(
        "overload: 4 x capacity for a minute, open loop",
        f"admitted p99 <= {LATE:g} x that at 80 % load, the rest refused within {REFUSED_MS:g} ms (p99), "
        f"weight 0 p99 <= {LIGHT_MS:g} ms, nothing restarted",
        _overload,
    )


@dataclass
class Refusals:
    """How long it took to fail, in ms, by code."""

    waits_ms: dict[str, list[float]] = field(default_factory=dict)

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[Send]:
        """Open a connection that notes failures."""
        async with over_grpc(url) as send:

            async def noting(request: Any) -> object:
                began = time.perf_counter()
                try:
                    return await send(request)
                except grpc.aio.AioRpcError as error:
                    waited_ms = (time.perf_counter() - began) * 1e3
                    self.waits_ms.setdefault(error.code().name, []).append(waited_ms)
                    raise

            yield noting


def _requests(weight: float, deadline_s: float | None = None) -> list[bytes]:
    limit = service_pb2.ModelInferRequest()
    if deadline_s is not None:
        limit.parameters["timeout"].int64_param = int(deadline_s * 1e6)
    inputs = [scored_inputs([text], np.array([weight], np.float32)) for text in TEXTS]
    return [serialise("orchestrator", it) + limit.SerializeToString() for it in inputs]


def _heavy(deadline_s: float | None = None, refusals: Refusals | None = None) -> Contender:
    requests = _requests(0.5, deadline_s)
    return Contender("heavy", requests, ["heavy"] * len(requests), connect=refusals.connect if refusals else over_grpc)


@contextmanager
def _preferred() -> Iterator[None]:
    """Let this process go before others: what its clients wait for a core is no answer's time. Needs root."""
    autogroup = Path("/proc/self/autogroup")  # by which Linux shares the cores between sessions, whatever is nice
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, PREFERRED)
            autogroup.write_text(str(PREFERRED))
        yield
    finally:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
            autogroup.write_text(str(niceness))


def _overload(stage: Stage) -> Found:
    stage.served  # noqa: B018  started without this process's preference
    with _preferred():
        return _measured(stage)


def _measured(stage: Stage) -> Found:
    url = stage.served.at["gRPC"]
    before = stage.served.restarts()
    capacity = asyncio.run(run_turn(url, _heavy(), N_CLIENTS, 10.0)).rows_per_s
    calm = asyncio.run(run_open_turn(url, _heavy(), 0.8 * capacity, 20.0, warm_up=True))
    at_80_ms = float(np.percentile(calm.all_ms(), 99))
    refusals = Refusals()
    heavy, light = asyncio.run(_both(url, 4 * capacity, LATE * at_80_ms / 1e3, refusals))
    admitted_ms, light_ms = (float(np.percentile(turn.all_ms() or [np.inf], 99)) for turn in (heavy, light))
    waits_ms = [wait for waits in refusals.waits_ms.values() for wait in waits]
    refused_ms = float(np.percentile(waits_ms, 99)) if waits_ms else 0.0
    at_once = sum(wait <= REFUSED_MS for wait in waits_ms) / max(1, len(waits_ms))
    restarted = stage.served.restarts() != before
    codes = ", ".join(f"{len(waits):,} {code}" for code, waits in refusals.waits_ms.items())
    seen = (
        f"capacity {capacity:.0f}/s; p99 at 80 % {at_80_ms:.0f} ms; at 4 x: {len(heavy.all_ms()):,} admitted, p99 "
        f"{admitted_ms:.0f} ms ({admitted_ms / at_80_ms:.1f} x); refused {codes or 'none'}, p99 {refused_ms:.0f} ms, "
        f"{at_once:.0%} within {REFUSED_MS:g} ms; weight 0 p99 {light_ms:.0f} ms, {light.n_errors} failed"
        f"; client busy {heavy.client_busy:.0%}{'; RESTARTED' if restarted else ''}"
    )
    held = admitted_ms <= LATE * at_80_ms and refused_ms <= REFUSED_MS and light_ms <= LIGHT_MS
    return Found(seen, held and bool(waits_ms) and not light.n_errors and not restarted)


async def _both(url: str, rate: float, deadline_s: float, refusals: Refusals) -> tuple[Turn, Turn]:
    """Send the overload, and beside it a few requests that need no BERT."""
    light = Contender("light", _requests(0.0), ["light"] * len(TEXTS))
    return await asyncio.gather(
        run_open_turn(url, _heavy(deadline_s, refusals), rate, OVERLOAD_S),
        run_open_turn(url, light, LIGHT_PER_S, OVERLOAD_S),
    )
