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
    """Answer requests of equal row shape by one call on their concatenated rows; where it fails, by one call each.

    Args:
        requests: what `execute` received.
        handle: gets all rows' inputs by name and returns as many rows of each output.
    """
    try:
        return _answer_merged(requests, handle)
    except Exception as error:
        if len(requests) == 1:
            return [respond_error(error)]
        return [response for request in requests for response in answer_merged([request], handle)]


def _answer_merged(requests: Sequence[Any], handle: Callable[[Arrays], Arrays]) -> list[Any]:
    inputs = [read_inputs(request) for request in requests]
    n_rows = [len(next(iter(arrays.values()))) for arrays in inputs]
    outputs = handle({name: _concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]})
    for name, rows in outputs.items():
        if len(rows) != sum(n_rows):  # NumPy would split them all the same
            raise ValueError(f"{name}: expected {sum(n_rows)} rows, got {len(rows)}.")
    parts = {name: np.split(rows, np.cumsum(n_rows)[:-1]) for name, rows in outputs.items()}
    return [respond({name: rows[i] for name, rows in parts.items()}) for i in range(len(requests))]


def _concatenate(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
