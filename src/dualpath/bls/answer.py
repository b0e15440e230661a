"""Answer every request exactly once, with its own rows or its own error."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from dualpath.bls.child import ChildFailed

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Faults = tuple[type[Exception], ...]


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
            responses.append(_response(handle(_inputs(request))))
        except Exception as error:
            responses.append(_failure(error, faults))
    return responses


async def answer_each_async(
    requests: Sequence[Any], handle: Callable[[Arrays, Any], Awaitable[Arrays]], faults: Faults = ()
) -> list[Any]:
    """Answer requests concurrently, as `answer_each` does. `handle` gets the request's trace too, for its children."""

    async def answer(request: Any) -> Any:
        try:
            return _response(await handle(_inputs(request), request.trace()))
        except Exception as error:
            return _failure(error, faults)

    return list(await asyncio.gather(*map(answer, requests)))


def answer_merged(requests: Sequence[Any], handle: Callable[[Arrays], Arrays]) -> list[Any]:
    """Answer requests of equal row shape by one call on their concatenated rows.

    Args:
        requests: what `execute` received.
        handle: gets all rows' inputs by name and returns as many rows of each output.
    """
    try:
        inputs = [_inputs(request) for request in requests]
        n_rows = [len(next(iter(arrays.values()))) for arrays in inputs]
        merged = {name: _concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]}
        outputs = {name: np.split(rows, np.cumsum(n_rows)[:-1]) for name, rows in handle(merged).items()}
        return [_response({name: parts[i] for name, parts in outputs.items()}) for i in range(len(requests))]
    except Exception as error:
        return [_failure(error, ()) for _ in requests]


def _inputs(request: Any) -> Arrays:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _concatenate(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _response(outputs: Arrays) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _failure(error: Exception, faults: Faults) -> Any:
    if isinstance(error, faults):
        code, message = pb_utils.TritonError.INVALID_ARG, str(error)
    elif isinstance(error, ChildFailed):
        code, message = pb_utils.TritonError.INTERNAL, str(error)
    else:
        code, message = pb_utils.TritonError.INTERNAL, f"{type(error).__name__}: {error}"
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
