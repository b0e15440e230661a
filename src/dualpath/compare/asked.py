"""What two models are asked: the tensors, loads and sequences that both take, of those that are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dualpath.compare import requests, sequences, target
from dualpath.compare.excuses import Filter, check_filters
from dualpath.compare.inputs import DEFAULT_WEIGHT, InputRows
from dualpath.compare.made_up import RandomRows
from dualpath.compare.requests import Mix
from dualpath.compare.result import Load
from dualpath.compare.sequences import Sequences
from dualpath.compare.target import Pair, Target
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, WEIGHT

Rows = InputRows | RandomRows


def pair_for(
    a: Target, b: Target, rows: Rows, mix: Mix | None, ignore: Sequence[str], filters: Sequence[Filter]
) -> Pair:
    """Return what two models have in common, without what no row has a value for, and without ignored outputs.

    Raises:
        UserError: they have too little in common, or the rows, the mix, `ignore` or the filters do not fit them.
    """
    check_filters(filters, [*a.inputs, *b.inputs, *a.outputs, *b.outputs])
    pair = replace(target.pair(a, b).given(rows.has).without(ignore), watched=tuple(it.name for it in filters))
    names = [tensor.name for tensor in pair.inputs]
    if mix and WEIGHT.name not in names:
        raise UserError(f"--mix: expected models with an input {WEIGHT.name}, got {', '.join(names)}. Leave it out.")
    if rows.is_built_in and not {*names} <= {EXCERPT.name, WEIGHT.name}:
        raise UserError(
            f"--input: expected a file with {', '.join(names)}, got the built-in excerpts, which have "
            f"{EXCERPT.name} only. Give one, or --random 100 for rows that are made up."
        )
    return pair


def loads_for(pair: Pair, loads: Sequence[Load], as_given: bool) -> Sequence[Load]:
    """Return the loads, those that nobody gave with no larger batches than the models take.

    Raises:
        UserError: a batch that was given is too large.
    """
    if not as_given:
        loads = list(dict.fromkeys(replace(load, batch=min(load.batch, pair.max_batch_size)) for load in loads))
    for batch in {load.batch for load in loads}:
        requests.check_batch(pair, batch)
    return loads


def sequences_for(pair: Pair, rows: Rows, n_rows: int, mix: Mix | None, loads: Sequence[Load], seed: int) -> Sequences:
    """Return the sequences in which models with state are asked; none for others.

    Raises:
        UserError: they would have to be asked with a mix or at a rate.
    """
    if not pair.keeps_state:
        return ()
    if mix or any(load.rate is not None for load in loads):
        option = "--mix" if mix else "--rate"
        raise UserError(f"{option}: expected models without state, got some with sequence batching. Leave it out.")
    return rows.sequences or sequences.made_up(n_rows, seed)


def notes(pair: Pair, rows: Rows, n_rows: int, mix: Mix | None, asked_in: Sequences) -> Iterator[str]:
    """Say what of the models and the rows is left out or made up."""
    yield from pair.notes
    if asked_in:
        whence = "of the input" if rows.sequences else "made up of its rows, in their order"
        yield f"Asked in sequences, as one of them keeps state: {len(asked_in)} {whence}."
    n_without = rows.n_without_weight()
    if not mix and n_without and any(tensor.name == WEIGHT.name for tensor in pair.inputs):
        yield f"{WEIGHT.name} is {DEFAULT_WEIGHT} in the rows that have none, {n_without} of {n_rows}."
