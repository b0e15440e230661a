"""Answer the requests of one `execute` before it returns: for models that call no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dualpath.bls.request import Arrays, Faults, read_inputs, respond, respond_error
from dualpath.bls.tensors import Array


def answer_each(requests: Sequence[Any], handle: Callable[[Arrays], Arrays], faults: Faults = ()) -> list[Any]:
    """Answer requests one by one; one that fails fails alone.

    Args:
        requests: what `execute` received.
        handle: gets a request's inputs by name and returns its outputs by name.
        faults: errors that are the caller's; they are answered with INVALID_ARG, others with INTERNAL.
    """
    responses = []
    for request in requests:
        try:
            responses.append(respond(handle(read_inputs(request))))
        except Exception as error:
            responses.append(respond_error(error, faults))
    return responses


def answer_merged(requests: Sequence[Any], handle: Callable[[Arrays], Arrays]) -> list[Any]:
    """Answer requests of equal row shape by one call on their concatenated rows.

    Args:
        requests: what `execute` received.
        handle: gets all rows' inputs by name and returns as many rows of each output.
    """
    try:
        inputs = [read_inputs(request) for request in requests]
        n_rows = [len(next(iter(arrays.values()))) for arrays in inputs]
        merged = {name: _concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]}
        outputs = {name: np.split(rows, np.cumsum(n_rows)[:-1]) for name, rows in handle(merged).items()}
        return [respond({name: parts[i] for name, parts in outputs.items()}) for i in range(len(requests))]
    except Exception as error:
        return [respond_error(error) for _ in requests]


def _concatenate(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
