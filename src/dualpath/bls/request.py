"""A Triton request, read once; and the responses that answer it."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from dualpath.bls.errors import BadParameter, CallerGone, ChildFailed, ChildLate, ChildUnavailable
from dualpath.bls.tensors import Array, keep, to_array, to_tensor
from dualpath.bls.triton import pb_utils

Arrays = Mapping[str, Array]
T = TypeVar("T")
Faults = tuple[type[Exception], ...]


class Request:
    """What a caller sent, in arrays that outlive `execute`.

    Attributes:
        inputs: arrays by name, each on the device where it arrived.
        n_rows: rows of the request.
        parameters: the request's own parameters by name.
        deadline: when the caller's timeout ends, in seconds of `time.monotonic()`; None where there is none.
        trace: to be passed on to children; None unless the caller asks for it by the parameter `trace_children`.
    """

    def __init__(self, raw: Any, answer_later: Callable[[], None]) -> None:
        self.inputs: Arrays = {name: keep(array) for name, array in read_inputs(raw).items()}
        self.n_rows = len(next(iter(self.inputs.values())))
        self.parameters: dict[str, Any] = json.loads(raw.parameters() or "{}")
        self.trace = Trace(raw.trace()) if self.parameters.get("trace_children") is True else None
        timeout_us = raw.timeout()
        self.deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        # Triton frees a request's trace when `execute` returns without its answer.
        self.answer_later = _do_nothing if self.trace else answer_later
        self._raw_is_cancelled: Callable[[], bool] = raw.is_cancelled
        self._asking = asyncio.Lock()
        self._closed = False

    async def is_cancelled(self) -> bool:
        """Ask Triton whether the caller has gone: a round trip to the server, off the event loop."""
        async with self._asking:
            if self._closed:
                return True
            return await asyncio.get_running_loop().run_in_executor(None, self._raw_is_cancelled)

    async def close(self) -> None:
        """Let no question about this request reach Triton any more: after the answer there is nobody to ask."""
        async with self._asking:
            self._closed = True
        self.answer_later = _do_nothing
        if self.trace:
            await self.trace.wait()


class Trace:
    """A request's trace. A call that carries it is a step of the request, and the answer waits for every such call.

    Triton 2.51 frees the trace with the request. A child that gets it later reads freed memory, which hangs the model.

    Attributes:
        closed: whether the request has its answer, or is about to: no call may carry the trace any more.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.closed = False
        self._calls: set[asyncio.Future[Any]] = set()

    async def lend(self, call: Awaitable[T]) -> T:
        """Await a call that carries the trace."""
        future = asyncio.ensure_future(call)
        self._calls.add(future)
        return await asyncio.shield(future)  # whoever gives up waiting does not end it

    async def wait(self) -> None:
        """Close, and wait until no call carries the trace any more."""
        self.closed = True
        if self._calls:
            await asyncio.wait(self._calls)


def read_inputs(raw: Any) -> Arrays:
    """Return a request's inputs by name, for use inside `execute`, each on the device where it arrived."""
    return {tensor.name(): to_array(tensor) for tensor in raw.inputs()}


def respond(outputs: Arrays) -> Any:
    """Make the response that carries these outputs."""
    return pb_utils.InferenceResponse([to_tensor(name, array) for name, array in outputs.items()])


def respond_error(error: BaseException, faults: Faults = ()) -> Any:
    """Make the response that says what went wrong: one line to the caller, the traceback of a bug to the log.

    Args:
        faults: errors that are the caller's; they become INVALID_ARG.
    """
    code, message = pb_utils.TritonError.INTERNAL, str(error)
    if isinstance(error, (*faults, BadParameter)):
        code = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, CallerGone):
        code = pb_utils.TritonError.CANCELLED
    elif isinstance(error, (ChildUnavailable, ChildLate)):
        code = pb_utils.TritonError.UNAVAILABLE
    elif not isinstance(error, ChildFailed):
        message = f"{type(error).__name__}: {error}"
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message.partition("\n")[0], code))


def _do_nothing() -> None:
    pass
