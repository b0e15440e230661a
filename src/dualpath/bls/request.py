"""A Triton request, read once; and the responses that answer it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from dualpath.bls.errors import BadParameter, CallerGone, ChildError, ChildFailed, ConfigError
from dualpath.bls.run import blocking, current_run
from dualpath.bls.tensors import Array, Arrays, concatenate, own, to_array, to_tensors
from dualpath.bls.triton import pb_utils

LONGEST_TIMEOUT_US = 365 * 24 * 3600 * 1_000_000
"""What a caller's timeout counts for at most: the system's clocks take no longer one than 292 years."""

T = TypeVar("T")
CallerErrors = tuple[type[Exception], ...]


class Request:
    """What callers sent, in arrays that outlive `execute`: one request, or the rows of several that arrived together.

    Attributes:
        inputs: arrays by name, each on the device on which it arrived, free to be written to. An optional input that
            was not sent is missing.
        n_rows: rows of all requests; 1 for a model without a batch dimension.
        parameters: the request's own parameters by name. Requests that share a run have the same.
        deadline: when the caller's timeout ends, in seconds of `time.monotonic()`; None if there is none. The earliest
            one of several.
        id: the request's id; those of several are joined by commas.
        requested_outputs: the outputs that the caller asked for; others need not be computed.
        trace: what makes calls to children steps of the request; None unless the caller asks for it by the parameter
            `trace_children`.
    """

    def __init__(self, arrivals: Sequence[Arrival], outlives_execute: bool = False) -> None:
        first = arrivals[0]
        self.n_rows = sum(arrival.n_rows for arrival in arrivals)
        if len(arrivals) == 1:
            self.inputs: Arrays = {name: own(array, outlives_execute) for name, array in first.inputs.items()}
        else:
            names = first.inputs
            self.inputs = {name: concatenate([arrival.inputs[name] for arrival in arrivals]) for name in names}
        self.parameters: dict[str, Any] = first.parameters
        self.deadline = min((arrival.deadline for arrival in arrivals if arrival.deadline is not None), default=None)
        self.requested_outputs: frozenset[str] = first.requested_outputs
        self.trace = first.trace
        self._arrivals = arrivals

    @property
    def id(self) -> str:
        ids = [arrival.id for arrival in self._arrivals]
        return ids[0] if len(ids) == 1 else ",".join(filter(None, ids))

    def remaining_s(self) -> float | None:
        """Return how many seconds are left until the deadline, at least 0; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _longest_remaining_s(self) -> float | None:
        """Return the seconds left to that of the requests which has most; None if one has no deadline."""
        if len(self._arrivals) == 1:
            return self.remaining_s()
        deadlines = [arrival.deadline for arrival in self._arrivals]
        return max(0.0, max(filter(None, deadlines)) - time.monotonic()) if None not in deadlines else None

    async def is_cancelled(self) -> bool:
        """Ask Triton, by a round trip to the server, whether the caller (of a shared run: every caller) has gone."""
        run = current_run()
        if run is not None and run.inline:
            return bool(await blocking(lambda: all(arrival.raw.is_cancelled() for arrival in self._arrivals)))
        return all([await arrival.is_cancelled() for arrival in self._arrivals])


def current_request() -> Request:
    """Return the request that the calling graph is at work on.

    Raises:
        RuntimeError: the code is not part of a graph.
    """
    run = current_run()
    if run is None:
        raise RuntimeError(
            "current_request: expected code that a Pipeline's graph calls, got other code. Call it there."
        )
    request: Request = run.request
    return request


class Arrival:
    """One request as it came from Triton."""

    def __init__(self, raw: Any, has_batch: bool) -> None:
        self.raw = raw
        self.inputs: dict[str, Array] = read_inputs(raw)
        self.n_rows = len(next(iter(self.inputs.values()))) if has_batch and self.inputs else 1
        self.parameters_text: str = raw.parameters()
        self.parameters: dict[str, Any] = {} if self.parameters_text in ("", "{}") else json.loads(self.parameters_text)
        self.requested_outputs = frozenset(raw.requested_output_names())
        timeout_us = min(raw.timeout(), LONGEST_TIMEOUT_US)
        self.deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        self.trace = Trace(raw.trace()) if self.parameters.get("trace_children") is True else None
        self._asking: asyncio.Lock | None = None
        self._closed = False

    @property
    def id(self) -> str:
        """The caller's id of the request, or nothing."""
        text: str = self.raw.request_id()
        return text

    def is_larger_than(self, n_rows: int, n_bytes: int) -> bool:
        """Tell whether the request has more rows, or its strings more bytes."""
        if self.n_rows > n_rows:
            return True
        texts = [array for array in self.inputs.values() if array.dtype.hasobject]
        return sum([sum(map(len, array.ravel().tolist())) for array in texts]) > n_bytes

    def group(self) -> Any:
        """Return what requests must have in common to share a run."""
        shapes = tuple([(name, array.dtype, array.shape[1:], type(array)) for name, array in self.inputs.items()])
        return self.parameters_text, self.requested_outputs, shapes

    async def is_cancelled(self) -> bool:
        async with self._lock():
            if self._closed:
                return True
            return await asyncio.get_running_loop().run_in_executor(None, self.raw.is_cancelled)

    async def close(self) -> None:
        """Let no question about this request reach Triton any more: after the answer there is nobody to ask."""
        async with self._lock():
            self._closed = True
        if self.trace:
            await self.trace.wait()

    def _lock(self) -> asyncio.Lock:
        if self._asking is None:
            self._asking = asyncio.Lock()
        return self._asking


class Reply(Arrival):
    """A request that is answered exactly once: with the return of `execute`, or later by its sender.

    Attributes:
        started: when `execute` got it, in seconds of `time.perf_counter()`.
        n_rows: 0 if it could not be read.
        error: why it could not be read.
        response: what `execute` is to return for it.
        is_sent_off: whether the event loop answers it.
    """

    def __init__(self, raw: Any, has_batch: bool) -> None:
        self.started = time.perf_counter()
        self.error: Exception | None = None
        self.response: Any = None
        self.is_sent_off = False
        self._sender: Any = None
        self._answered: threading.Event | None = None
        try:
            super().__init__(raw, has_batch)
        except Exception as error:
            self.n_rows, self.error = 0, error

    def send_off(self, may_wait: bool) -> None:
        """Let `execute` return without this answer; or, if the request is traced, let it wait for the event loop."""
        if self.trace and may_wait:  # Triton frees a request's trace when `execute` returns without its answer
            self._answered = threading.Event()
        else:
            self._sender = self.raw.get_response_sender()
        self.is_sent_off = True

    def send_instead(self) -> None:
        """Send what a decoupled model's `execute` cannot return."""
        sender = self._sender or self.raw.get_response_sender()
        sender.send(self.response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def wait_if_traced(self) -> None:
        """Wait until the event loop has answered, if `execute` has to return the answer."""
        if self._answered:
            self._answered.wait()

    async def send(self, response: Any) -> None:
        """Send one of several answers of a decoupled model, on the event loop."""
        # `send` waits until Triton has taken the response: less than two changes of threads would take.
        self._sender.send(response)

    async def end(self, response: Any) -> None:
        """Give the last answer, on the event loop; None if those sent were all."""
        with suppress(asyncio.CancelledError):  # given up just now: the answer goes out all the same
            await self.close()
        if self._answered:
            self.response = response
            self._answered.set()
        else:
            given = [] if response is None else [response]
            self._sender.send(*given, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


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


def read_inputs(raw: Any, to_array: Callable[[Any], Any] = to_array) -> dict[str, Array]:
    """Return a request's inputs by name, each on the device on which it arrived."""
    return {tensor.name(): to_array(tensor) for tensor in raw.inputs()}


def respond(outputs: Arrays, bf16: Sequence[str] = ()) -> Any:
    """Make the response that carries these outputs; those that `bf16` names hold the bits of BF16."""
    return pb_utils.InferenceResponse(to_tensors(outputs, bf16))


def respond_error(error: BaseException, caller_errors: CallerErrors = ()) -> Any:
    """Make the response that says what went wrong: one line to the caller, the traceback of a bug to the log.

    Args:
        caller_errors: errors that are the caller's; they become INVALID_ARG.
    """
    code, message = pb_utils.TritonError.INTERNAL, str(error)
    if isinstance(error, (*caller_errors, BadParameter)):
        code = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, CallerGone):
        code = pb_utils.TritonError.CANCELLED
    elif isinstance(error, ChildFailed):
        code = code if error.code is None else error.code
    elif isinstance(error, ChildError):
        code = pb_utils.TritonError.UNAVAILABLE
    elif not isinstance(error, ConfigError):
        message = f"{type(error).__name__}: {error}"
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message.partition("\n")[0], code))
