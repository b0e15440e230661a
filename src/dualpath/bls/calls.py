"""Make calls to one model: what a call carries, what it gives, what its errors mean, and when it is made again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, TypeVar

from dualpath.bls.errors import ChildError, ChildFailed, ChildLate, ChildUnavailable, ConfigError
from dualpath.bls.metrics import Metrics
from dualpath.bls.pace import SLOW_S, Pace
from dualpath.bls.request import Request
from dualpath.bls.run import Leave, Run, owners
from dualpath.bls.tensors import Array, to_array, to_tensors
from dualpath.bls.triton import pb_utils

MAX_ID = 256
"""Characters of the ids that a merged call carries."""

# Before release 25.04 all of a child's errors arrive as INTERNAL; only Triton's own words tell them apart.
_BEGIN = (
    r"^(Model \S+ - Error when running inference: )?(Failed for execute the inference request\. )?"
    r"(\[request id: .*?\] )?"
)
_UNAVAILABLE = re.compile(
    _BEGIN + r"(Model '[^']*' is not ready|Request for unknown model: |Stub process '[^']*' is not healthy"
    r"|Exceeds maximum queue size|Server is stopping)"
)
_LATE = re.compile(_BEGIN + r"Request timeout expired")
_INVALID = re.compile(_BEGIN + r"(unexpected shape for input|inference request batch-size must be|input byte size)")
_MISCONFIGURED = re.compile(
    _BEGIN + r"(unexpected inference (in|out)put|expected \d+ inputs but got|expected number of inputs"
    r"|inference input data-type is|input '[^']*' data-type)"
)

NOT_IN_TIME = "expected an answer within the request's timeout, got none."

Outputs = dict[str, Array]
T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How a call that failed is made again, as long as the request's deadline allows.

    Args:
        times: how often at most, after the first call.
        on: for which kinds of error: "unavailable", "failed", "late".
        delay_s: seconds before the first time; each further time waits twice as long.
    """

    times: int = 1
    on: Collection[str] = ("unavailable",)
    delay_s: float = 0.05

    def _delay_before(self, attempt: int, error: ChildError, remaining_s: float | None) -> float | None:
        """Return how many seconds to wait before a further call; None if there is to be none."""
        delay_s: float = self.delay_s * 2 ** (attempt - 1)
        if attempt > self.times or error.kind not in self.on or (remaining_s is not None and remaining_s <= delay_s):
            return None
        return delay_s


class Carried(NamedTuple):
    """What a call takes over from the requests that it serves."""

    request_id: str = ""
    timeout_us: int = 0
    parameters: Mapping[str, Any] = {}
    trace: Any = None

    @classmethod
    def by(cls, requests: Sequence[Request], forward: Collection[str]) -> Carried:
        """Take over the ids, the longest remaining time (none if one request has none) and chosen parameters."""
        if len(requests) == 1 and requests[0].deadline is None:  # the usual case
            return cls(requests[0].id[:MAX_ID], 0, chosen(requests[0].parameters, forward))
        remaining = [request._longest_remaining_s() for request in requests]
        longest_s = None if None in remaining else max(remaining)  # type: ignore[type-var]
        timeout_us = 0 if longest_s is None else max(1, round(longest_s * 1e6))
        ids = ",".join([request.id for request in requests if request.id])[:MAX_ID]
        return cls(ids, timeout_us, chosen(requests[0].parameters, forward))


def chosen(parameters: Mapping[str, Any], forward: Collection[str]) -> dict[str, Any]:
    """Return the parameters that a call takes over: those named, or all by "*"."""
    return {name: value for name, value in parameters.items() if name in forward or "*" in forward} if forward else {}


@dataclass(eq=False, repr=False)
class Called:
    """A model that this one calls, with what every kind of child is made with; `Child` says what it means."""

    name: str
    outputs: str | Sequence[str]
    _: KW_ONLY
    version: int = -1
    retry: Retry | None = None
    forward_parameters: Collection[str] = ()
    bf16_inputs: Collection[str] = ()
    device: int | None = None
    early_return: bool | None = None
    metrics: Metrics | None = None

    def __post_init__(self) -> None:
        self._is_single = isinstance(self.outputs, str)
        names = [self.outputs] if isinstance(self.outputs, str) else list(self.outputs)
        self._names = [each.removesuffix("?") for each in names]
        self._required = [each for each in names if not each.endswith("?")]
        self._bf16 = frozenset(self.bf16_inputs)
        self._memory: Any = None
        self._reported: set[str] = set()
        self._pace = Pace()

    def _exec(self, inputs: Mapping[str, Any], carried: Carried) -> Outputs:
        """Call the model once and return its outputs by name. Blocks.

        Raises:
            ChildError: it gave none.
            ConfigError: its inputs or outputs are not those that the call names.
        """
        return self._outputs_of(self._guarded(self._request(inputs, carried).exec))

    def _exec_stream(self, inputs: Mapping[str, Any], carried: Carried) -> Iterator[Outputs]:
        """Call a decoupled model and yield the outputs of each of its responses. Blocks."""
        request = self._request(inputs, carried)
        responses = iter(self._guarded(lambda: request.exec(decoupled=True)))
        while True:
            try:
                response = self._guarded(lambda: next(responses))
            except StopIteration:
                return
            if response.has_error() or response.output_tensors():  # the last one may say no more than that
                yield self._outputs_of(response)

    def _request(self, inputs: Mapping[str, Any], carried: Carried) -> Any:
        if self._memory is None:
            kind = pb_utils.TRITONSERVER_MEMORY_CPU if self.device is None else pb_utils.TRITONSERVER_MEMORY_GPU
            self._memory = pb_utils.PreferredMemory(kind, self.device or 0)
        return pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=self.version,
            inputs=to_tensors(inputs, self._bf16),  # type: ignore[arg-type]
            requested_output_names=self._names,
            preferred_memory=self._memory,
            request_id=carried.request_id,
            timeout=carried.timeout_us,
            **({"parameters": dict(carried.parameters)} if carried.parameters else {}),
            **({"trace": carried.trace} if carried.trace else {}),
        )

    def _guarded(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except pb_utils.TritonModelException as error:
            raise self._failure(str(error)) from error

    def _outputs_of(self, response: Any) -> Outputs:
        if response.has_error():
            error = response.error()
            raise self._failure(error.message(), error.code())
        outputs = {tensor.name(): to_array(tensor) for tensor in response.output_tensors()}
        for name in self._required:
            if name not in outputs:
                raise self._misconfigured(f"expected an output {name!r}, got {', '.join(outputs) or 'none'}.")
        self._count("ok")
        return outputs

    def _misconfigured(self, message: str) -> ConfigError:
        """Return the error that says how the model differs from what is expected of it; the log says it once."""
        error = ConfigError(f"{self.name}: {message.rstrip('. ')}. Correct this model's config or the child's.")
        self._count("failed")
        if message not in self._reported and len(self._reported) < 16:
            self._reported.add(message)
            pb_utils.Logger.log_error(f"configuration: {error}")
        return error

    def _failure(self, message: str, code: int | None = None) -> Exception:
        if code == pb_utils.TritonError.INTERNAL:
            code = None  # what releases before 25.04 say of every error
        if _MISCONFIGURED.search(message):
            return self._misconfigured(message)
        error: ChildError
        if _LATE.search(message):
            error = ChildLate(self.name, message)
        elif code == pb_utils.TritonError.UNAVAILABLE or _UNAVAILABLE.search(message):
            error = ChildUnavailable(self.name, message)
        else:
            if code is None and _INVALID.search(message):
                code = pb_utils.TritonError.INVALID_ARG
            error = ChildFailed(self.name, message, code)
        return self._counted(error)

    def _late(self) -> ChildError:
        return self._counted(ChildLate(self.name, NOT_IN_TIME))

    def _counted(self, error: ChildError) -> ChildError:
        self._count(error.kind)
        return error

    def _count(self, outcome: str) -> None:
        """Count a call in `bls_calls_total`."""
        if self.metrics:
            self.metrics._add("calls_total", 1, {"child": self.name, "outcome": outcome})

    def _given(self, outputs: Outputs) -> Any:
        """Return one output as an array, several by name."""
        return outputs.get(self._names[0]) if self._is_single else outputs

    def _leave_if_slow(self, n_rows: int) -> None:
        """Leave if a call with so many rows would keep `execute` for too long."""
        if self._pace.seconds(n_rows) > SLOW_S if self.early_return is None else self.early_return:
            raise leave()

    def _failed_inline(self, run: Run, error: ChildError) -> BaseException:
        """Return what to raise for a call that failed inline: the error, or a wish to try again on the event loop."""
        run.memo.attempts[self] = 1
        if self.retry and self.retry._delay_before(1, error, run.request.remaining_s()) is not None:
            return Leave()
        if error.kind == "unavailable":
            run.memo.unavailable[self] = error
        return error

    async def _with_retries(self, once: Callable[[], Awaitable[T]], requests: Sequence[Request], attempt: int) -> T:
        """Await `once()`, and again after errors as `retry` says, within the longest deadline of the requests.

        Args:
            attempt: how many calls were made already.
        """
        while True:
            attempt += 1
            try:
                return await once()
            except ChildError as error:
                remaining = [request.remaining_s() for request in requests]
                left = None if None in remaining else max(filter(None, remaining), default=0.0)
                delay_s = self.retry._delay_before(attempt, error, left) if self.retry else None
                if delay_s is None:
                    raise
            await asyncio.sleep(delay_s)


async def in_thread(function: Callable[[], T]) -> T:
    """Await a blocking function, in one of the loop's threads."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


def leave(apart: bool = False) -> Leave:
    """Return what to raise so that the requests at work go on elsewhere, or each by itself first."""
    whose = owners()
    return Leave(None if whose is None else whose.tolist(), apart=apart)
