"""Rows as requests: batches, a mix of weights, a load's contenders, and the way to two models of a server."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from dualpath.compare import connection
from dualpath.compare.agreement import Answer
from dualpath.compare.connection import Headers, Send, is_http, serialise
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender
from dualpath.compare.sequences import Sequences
from dualpath.compare.target import Pair, Target
from dualpath.compare.tensors import decode, decode_all, infer_input
from dualpath.errors import UserError
from dualpath.readability.contract import WEIGHT

N_REQUESTS = 1000
"""The length of a schedule of mixed weights, so that its shares hold to a thousandth."""
STRETCH = 20
"""Requests of a schedule within which the order is random."""
MAX_POOL_ROWS = 16384
"""Rows that are kept serialised for each weight."""

Mix = Mapping[float, float]
"""BERT_WEIGHT -> share of the requests."""

Ask = Callable[[Sequence[int], bytes], Awaitable[Answer]]
"""Sends one request of these rows to a model, and what makes it a step of a sequence."""


def parse_mix(text: str) -> Mix:
    """Read "0:0.5,0.7:0.5" as {0: 0.5, 0.7: 0.5}; UserError if it is not of that form, or adds up to another sum."""
    mix: dict[float, float] = {}
    for part in text.split(","):
        try:
            weight, share = map(float, part.split(":"))
        except ValueError:
            raise UserError(
                f"--mix: expected WEIGHT:SHARE,…, got {part!r} in it. Write it like 0:0.5,0.7:0.5."
            ) from None
        if not 0 <= weight <= 1:
            raise UserError(f"--mix: expected weights from 0 to 1, got {weight:g}. Change it.")
        if not 0 < share <= 1:
            raise UserError(
                f"--mix: expected shares above 0 and up to 1, got {share:g} for weight {weight:g}. Change it."
            )
        if share < 1 / N_REQUESTS:
            raise UserError(
                f"--mix: expected shares of {1 / N_REQUESTS:g} or more, got {share:g} for weight {weight:g}. Raise it."
            )
        if weight in mix:
            raise UserError(f"--mix: expected each weight once, got {weight:g} twice. Add up its shares.")
        mix[weight] = share
    if abs(sum(mix.values()) - 1) > 1e-6:
        raise UserError(f"--mix: expected shares that add up to 1, got {sum(mix.values()):g}. Change them.")
    return mix


def weighted(rows: Sequence[Row], mix: Mix | None) -> list[Row]:
    """Return every row with every weight of the mix; the rows themselves without one."""
    return [row.with_weight(weight) for weight in mix for row in rows] if mix else list(rows)


def check_batch(pair: Pair, batch: int) -> None:
    """Raise a UserError for a batch size that the models do not allow."""
    if batch > pair.max_batch_size:
        raise UserError(f"--batch: expected at most the models' {pair.max_batch_size} rows, got {batch}. Give less.")


def shuffled_batches(rows: Sequence[Row], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Put all rows, in random order, into requests of so many; return their numbers.

    Rows that have not the same inputs, or not of the same shapes, never meet: Triton takes them in no common request.
    The last request is filled up with rows that had their turn.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for number in rng.permutation(len(rows)).tolist():
        signature = tuple((name, array.shape) for name, array in rows[number].tensors.items())
        alike.setdefault(signature, []).append(number)
    found = [
        list(islice(cycle(numbers), start, start + size))
        for numbers in alike.values()
        for start in range(0, len(numbers), size)
    ]
    return [found[index] for index in rng.permutation(len(found))]


def request(target: Target, pair: Pair, rows: Sequence[Row]) -> bytes:
    """Serialise one request of these rows, which have the same inputs, for the outputs that both models have."""
    inputs = []
    for tensor in pair.inputs:
        if tensor.name in rows[0].tensors:
            arrays = [row.tensors[tensor.name] for row in rows]
            inputs.append(infer_input(tensor, np.stack(arrays) if target.max_batch_size else arrays[0]))
    watched = [name for name in pair.watched if name in {tensor.name for tensor in target.outputs}]
    return serialise(target.model, inputs, [*(tensor.name for tensor in pair.outputs), *watched], target.version)


def contender(
    name: str,
    target: Target,
    pair: Pair,
    rows: Sequence[Row],
    batch: int,
    mix: Mix | None = None,
    seed: int = 0,
    sequences: Sequences = (),
) -> Contender:
    """Make a model a contender: requests of `batch` rows in random order, the same for all models.

    Args:
        mix: whole requests have one of its weights, in random order by its shares; latencies are kept by weight.
        sequences: of rows, in which models that keep state are asked.
    """
    if sequences:
        requests = [request(target, pair, [row]) for row in rows]
        alone = [[number] for number in range(len(rows))]
        return Contender(name, requests, [WEIGHT.name] * len(rows), rows=alone, sequences=sequences)
    rng = np.random.default_rng(seed)
    batches = shuffled_batches(rows, batch, rng)[: max(1, MAX_POOL_ROWS // batch)]
    if mix is None:
        requests = [request(target, pair, [rows[it] for it in numbers]) for numbers in batches]
        return Contender(name, requests, [WEIGHT.name] * len(batches), batch, rows=batches)
    weights = list(mix)
    pools = [
        [request(target, pair, [rows[it].with_weight(weight) for it in numbers]) for numbers in batches]
        for weight in weights
    ]
    scheduled = [(weights.index(weight), number % len(batches)) for number, weight in enumerate(_schedule(mix, rng))]
    return Contender(
        name,
        [pools[weight][number] for weight, number in scheduled],
        [f"{weights[weight]:g}" for weight, _ in scheduled],
        batch,
        rows=[[weight * len(rows) + it for it in batches[number]] for weight, number in scheduled],
    )


def _schedule(mix: Mix, rng: np.random.Generator) -> list[float]:
    """Return weights in random order, their shares kept in every stretch, so that all turns are given the same work."""
    taken = dict.fromkeys(mix, 0)
    order = []
    for number in range(N_REQUESTS):
        weight = max(mix, key=lambda weight: mix[weight] * (number + 1) - taken[weight])  # the one most behind
        taken[weight] += 1
        order.append(weight)
    blocks = (rng.permutation(order[start : start + STRETCH]) for start in range(0, N_REQUESTS, STRETCH))
    return [float(weight) for block in blocks for weight in block]


@dataclass(frozen=True)
class Wire:
    """The way to two models of a server; UserError if they are asked in streams, and its address is one of HTTP."""

    url: str
    pair: Pair
    headers: Headers = ()

    def __post_init__(self) -> None:
        if self.pair.streams and is_http(self.url):
            raise UserError(
                f"--url: expected the gRPC address of a server of decoupled models, got {self.url}. "
                "Give HOST:PORT of gRPC."
            )

    def connect(self, url: str) -> AbstractAsyncContextManager[Send]:
        """Open a connection of its own."""
        by_http = connection.over_http if is_http(url) else connection.over_grpc
        return (connection.over_stream if self.pair.streams else by_http)(url, self.headers)

    def decode(self, target: Target, answer: Any) -> Answer:
        """Return the outputs of a model's answer; ValueError if one is not what its shape and type say."""
        if self.pair.streams:
            return decode_all(answer, axis=int(target.max_batch_size > 0))
        return connection.decode_http(answer) if is_http(self.url) else decode(answer)

    @asynccontextmanager
    async def asking(self, target: Target, rows: Sequence[Row]) -> AsyncIterator[Ask]:
        """Connect for asking a model."""
        async with self.connect(self.url) as send:

            async def ask(numbers: Sequence[int], more: bytes) -> Answer:
                asked = request(target, self.pair, [rows[number] for number in numbers])
                return self.decode(target, await send(asked + more))

            yield ask
