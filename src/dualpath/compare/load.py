"""Closed-loop load on a Triton server: a number of clients, each of which sends its next request on its last answer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Contender:
    """A model under load: its requests, sent round and round, serialised once so that the client costs little.

    Attributes:
        name: what reports call it.
        requests: serialised ModelInferRequests.
        groups: a label per request; latencies are kept by it.
        n_rows: rows per request.
    """

    name: str
    requests: Sequence[bytes]
    groups: Sequence[str]
    n_rows: int = 1


@dataclass
class Turn:
    """What one turn measured. Latencies are in ms, by group."""

    elapsed_s: float
    n_rows: int
    n_errors: int
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rows_per_s(self) -> float:
        """Rows answered per second."""
        return self.n_rows / self.elapsed_s

    def all_ms(self) -> list[float]:
        """Return the latencies of all groups."""
        return [latency for group in self.latencies_ms.values() for latency in group]


def serialise(model: str, inputs: Sequence[grpcclient.InferInput], outputs: Sequence[str] = ()) -> bytes:
    """Serialise one request for these outputs, or for all."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in outputs:
        request.outputs.add(name=name)
    for tensor in inputs:
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    return bytes(request.SerializeToString())


async def run_turn(url: str, contender: Contender, concurrency: int, duration_s: float, skip: int = 0) -> Turn:
    """Load one contender for a while, over one connection a client.

    Args:
        url: gRPC address.
        concurrency: number of clients.
        duration_s: no request starts after it; those in flight are waited for and counted.
        skip: the request to start with, so that turns do not all begin alike.
    """
    numbers = itertools.count(skip)
    turn = Turn(0.0, 0, 0, {group: [] for group in contender.groups})
    started = time.perf_counter()

    async def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.client_number", number)]
        async with grpc.aio.insecure_channel(url, options=options) as channel:
            infer = channel.unary_unary(_INFER)  # bytes in, bytes out
            while time.perf_counter() - started < duration_s:
                index = next(numbers) % len(contender.requests)
                sent = time.perf_counter()
                try:
                    await infer(contender.requests[index])
                except grpc.aio.AioRpcError:
                    turn.n_errors += 1
                    continue
                turn.latencies_ms[contender.groups[index]].append((time.perf_counter() - sent) * 1e3)
                turn.n_rows += contender.n_rows

    await asyncio.gather(*(client(number) for number in range(concurrency)))
    turn.elapsed_s = time.perf_counter() - started
    return turn


def in_turns(
    contenders: Mapping[str, Callable[[int], Turn]], n_turns: int, seed: int = 0, warm_up: int = 1
) -> dict[str, list[Turn]]:
    """Measure contenders in short turns, in random order within each round, so that a drifting machine hits all.

    Args:
        contenders: by name, what measures one turn; gets a random number, the request to start with.
        n_turns: turns of each contender that count.
        warm_up: rounds before them that do not.
    Returns:
        For each name its turns; the i-th turns of all were measured next to each other.
    """
    rng = np.random.default_rng(seed)
    names = list(contenders)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(-warm_up, n_turns):
        start = int(rng.integers(1 << 16))  # the same requests for all contenders of a round
        for index in rng.permutation(len(names)):
            turn = contenders[names[index]](start)
            if number >= 0:
                turns[names[index]].append(turn)
    return turns
