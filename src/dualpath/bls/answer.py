"""Answer the requests of one `execute` before it returns: for models that call no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dualpath.bls.config import ModelConfig
from dualpath.bls.request import CallerErrors, read_inputs, respond, respond_error
from dualpath.bls.tensors import NUMPY, Arrays, Library


def answer_each(
    requests: Sequence[Any],
    handle: Callable[[Arrays], Arrays],
    caller_errors: CallerErrors = (),
    config: ModelConfig | None = None,
) -> list[Any]:
    """Answer requests one by one; one that fails fails alone.

    Args:
        requests: what `execute` received.
        handle: gets a request's inputs by name and returns its outputs by name.
        caller_errors: exceptions that are the caller's fault; they are answered with INVALID_ARG, others with INTERNAL.
        config: the model's own, if it has outputs of TYPE_BF16.
    """
    bf16 = config.bf16_outputs if config else ()
    responses = []
    for request in requests:
        try:
            responses.append(respond(handle(read_inputs(request)), bf16))
        except Exception as error:
            responses.append(respond_error(error, caller_errors))
    return responses


def answer_merged(
    requests: Sequence[Any],
    handle: Callable[[Arrays], Arrays],
    config: ModelConfig | None = None,
    library: Library | None = None,
) -> list[Any]:
    """Answer requests of equal row shape by one call on their concatenated rows; if it fails, by one call each.

    Args:
        requests: what `execute` received.
        handle: gets all rows' inputs by name and returns as many rows of each output.
        config: the model's own, if it has outputs of TYPE_BF16.
        library: whose arrays `handle` takes and returns; NumPy's or CuPy's without it.
    """
    library = library or NUMPY
    bf16 = config.bf16_outputs if config else ()
    try:
        inputs = [read_inputs(request, library.to_array) for request in requests]
        n_rows = [len(next(iter(arrays.values()))) for arrays in inputs]
        outputs = handle({name: library.concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]})
        for name, rows in outputs.items():
            if len(rows) != sum(n_rows):  # NumPy would split them all the same
                raise ValueError(f"{name}: expected {sum(n_rows)} rows, got {len(rows)}. Return one for each.")
        parts = {name: library.split(rows, n_rows) for name, rows in outputs.items()}
        return [respond({name: rows[i] for name, rows in parts.items()}, bf16) for i in range(len(requests))]
    except Exception as error:
        if len(requests) == 1:
            return [respond_error(error)]
        return [response for request in requests for response in answer_merged([request], handle, config, library)]
