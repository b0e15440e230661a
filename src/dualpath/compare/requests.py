"""Rows as the requests of a load: batches, and a mix of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dualpath.compare.connection import serialise
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender
from dualpath.compare.target import Pair, Target
from dualpath.compare.tensors import infer_input
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


def parse_mix(text: str) -> Mix:
    """Read "0:0.5,0.7:0.5" as {0: 0.5, 0.7: 0.5}.

    Raises:
        UserError: it is not of that form, or the shares do not add up to 1.
    """
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


def check_batch(rows: Sequence[Row], pair: Pair, batch: int) -> None:
    """Refuse a batch size that the models or the rows do not allow.

    Raises:
        UserError: the models take fewer rows, or the rows are not of one shape.
    """
    if batch > pair.max_batch_size:
        raise UserError(f"--batch: expected at most the models' {pair.max_batch_size} rows, got {batch}. Give less.")
    if batch == 1:
        return
    for tensor in pair.inputs:
        shapes = {row.tensors[tensor.name].shape: row.where for row in rows}
        if len(shapes) > 1:
            (one, here), (other, there) = list(shapes.items())[:2]
            raise UserError(
                f"--batch {batch}: expected rows of one shape, got {tensor.name} of {list(one)} in {here} and of "
                f"{list(other)} in {there}. Use --batch 1."
            )


def request(target: Target, pair: Pair, rows: Sequence[Row]) -> bytes:
    """Serialise one request of these rows for the outputs that both models have."""
    inputs = []
    for tensor in pair.inputs:
        arrays = [row.tensors[tensor.name] for row in rows]
        inputs.append(infer_input(tensor, np.stack(arrays) if target.max_batch_size else arrays[0]))
    return serialise(target.model, inputs, [tensor.name for tensor in pair.outputs], target.version)


def contender(
    name: str, target: Target, pair: Pair, rows: Sequence[Row], batch: int, mix: Mix | None = None, seed: int = 0
) -> Contender:
    """Make a model a contender: requests of `batch` rows in random order, the same for all models.

    Args:
        mix: whole requests have one of its weights, in random order by its shares; latencies are kept by weight.
    """
    rng = np.random.default_rng(seed)
    shuffled = [rows[index] for index in rng.permutation(len(rows))]
    n_pool = max(1, min(-(-len(rows) // batch), MAX_POOL_ROWS // batch))
    batches = [[shuffled[(number * batch + i) % len(rows)] for i in range(batch)] for number in range(n_pool)]
    if mix is None:
        return Contender(name, [request(target, pair, rows) for rows in batches], [WEIGHT.name] * n_pool, batch)
    requests, groups = [], []
    pools = {
        weight: [request(target, pair, [row.with_weight(weight) for row in rows]) for rows in batches] for weight in mix
    }
    for number, weight in enumerate(_schedule(mix, rng)):
        requests.append(pools[weight][number % n_pool])
        groups.append(f"{weight:g}")
    return Contender(name, requests, groups, batch)


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
