"""Call another model of the same server, one call for each `call`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, TypeVar

from dualpath.bls import wishes
from dualpath.bls.calls import Calls, Carried, Outputs, Retry
from dualpath.bls.errors import ChildError, ChildLate
from dualpath.bls.metrics import Metrics
from dualpath.bls.pace import SLOW_S, Pace
from dualpath.bls.request import Request
from dualpath.bls.run import Run, current_run, owners

NOT_IN_TIME = "expected an answer within the request's timeout, got none."

T = TypeVar("T")


@dataclass(eq=False, repr=False)
class Called:
    """What every kind of child is made with; `Child` says what it means."""

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
        self._calls = Calls(self.name, self.outputs, self.version, self.bf16_inputs, self.device, self.metrics)
        self._pace = Pace()

    def _leave_if_slow(self, n_rows: int) -> None:
        """Leave if a call with so many rows would keep `execute` for too long."""
        if self._pace.seconds(n_rows) > SLOW_S if self.early_return is None else self.early_return:
            raise leave()

    def _late(self) -> ChildLate:
        self._calls.count("late")
        return ChildLate(self.name, NOT_IN_TIME)


class Child(Called):
    """A model that this one calls with whole tensors.

    Args:
        name: the model's name on this server.
        outputs: the output to ask for, whose array `call` then returns; or several, which it returns by name. A name
            that ends in "?" is optional: left out if the model leaves it out.
        version: a version of the model; -1 lets Triton's version policy choose.
        retry: when to call again after an error.
        forward_parameters: the request's parameters that calls take over; "*" for all.
        bf16_inputs: inputs of TYPE_BF16; their arrays are uint16, the bits.
        device: None for outputs on the CPU; a GPU's number for outputs that stay there.
        early_return: whether requests that wait for this model are answered later, so that they do not keep
            `execute`. None means: while its calls take longer than 5 ms.
        metrics: where calls are counted.
    """

    async def call(self, inputs: Mapping[str, Any]) -> Any:
        """Call the model once with exactly these tensors.

        Args:
            inputs: arrays by input name, on any device; an input that is None is left out. Triton copies those on
                a GPU from device to device.
        Returns:
            The output's array, or arrays by name if several outputs were named: as many rows as the model gives, on
            the CPU unless `device` says otherwise.
        Raises:
            ChildUnavailable: the model cannot be reached.
            ChildFailed: it answered with an error.
            ChildLate: the request's timeout ended first.
            ConfigError: it has no such input or output.
        """
        run = current_run()
        if run is None:
            return self._calls.given(await in_thread(partial(self._timed, inputs, Carried())))
        key = [dict(inputs)]
        if known := run.memo.recall(self, key):
            outputs = known[0]
        else:
            outputs = await (self._inline(run, inputs) if run.inline else self._on_loop(run, inputs))
        if run.inline:
            run.memo.note(self, key, [outputs])
        return self._calls.given(outputs)

    async def stream(self, inputs: Mapping[str, Any]) -> AsyncIterator[Any]:
        """Call a decoupled model and iterate over its responses, each as `call` would return it.

        Every step waits in a thread. Leaving the loop early leaves the model to itself: Triton cannot cancel it before
        release 25.04.

        Raises:
            As `call` does, at any step.
        """
        run = current_run()
        if run is not None and run.inline:
            raise wishes.Leave
        carried = Carried.by([run.request], self.forward_parameters) if run else Carried()
        answers = self._calls.stream(inputs, carried)
        while True:
            try:
                async with asyncio.timeout_at(run.request.deadline if run else None):
                    outputs = await in_thread(partial(next, answers, None))
            except TimeoutError:
                raise self._late() from None
            if outputs is None:
                return
            yield self._calls.given(outputs)

    async def _inline(self, run: Run, inputs: Mapping[str, Any]) -> Outputs:
        if error := run.memo.unavailable.get(self):
            raise error
        self._leave_if_slow(1)
        carried = Carried.by([run.request], self.forward_parameters)
        try:
            outputs: Outputs = await wishes.call(partial(self._timed, inputs, carried))
        except ChildError as error:
            raise note_failure(self, run, error, self.retry) from None
        return outputs

    async def _on_loop(self, run: Run, inputs: Mapping[str, Any]) -> Outputs:
        request = run.request

        async def once() -> Outputs:
            if request.deadline is not None and time.monotonic() >= request.deadline:
                raise self._late()
            carried = Carried.by([request], self.forward_parameters)
            if request.trace and not request.trace.closed:
                carried = carried._replace(trace=request.trace.raw)
                return await request.trace.lend(in_thread(partial(self._timed, inputs, carried)))
            return await in_thread(partial(self._timed, inputs, carried))

        try:
            async with asyncio.timeout_at(request.deadline):  # the loop's clock is time.monotonic
                outputs: Outputs = await with_retries(self.retry, once, [request], run.attempts.pop(self, 0))
                return outputs
        except TimeoutError:
            raise self._late() from None

    def _timed(self, inputs: Mapping[str, Any], carried: Carried) -> Outputs:
        started = time.perf_counter()
        outputs = self._calls.ask(inputs, carried)
        self._pace.note(1, time.perf_counter() - started)
        return outputs


async def in_thread(function: Callable[[], T]) -> T:
    """Await a blocking function, in one of the loop's threads."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


def leave(apart: bool = False) -> wishes.Leave:
    """Return what to raise so that the requests at work go on elsewhere, or each by itself first."""
    whose = owners()
    return wishes.Leave(None if whose is None else whose.tolist(), apart=apart)


def note_failure(child: Any, run: Run, error: ChildError, retry: Retry | None) -> BaseException:
    """Return what to raise for a call that failed inline: the error, or a wish to try again on the event loop."""
    run.memo.attempts[child] = 1
    if retry and retry._delay_before(1, error, run.request.remaining_s()) is not None:
        return wishes.Leave()
    if error.kind == "unavailable":
        run.memo.unavailable[child] = error
    return error


async def with_retries(
    retry: Retry | None, once: Callable[[], Awaitable[T]], requests: Sequence[Request], attempt: int
) -> T:
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
            delay_s = retry._delay_before(attempt, error, left) if retry else None
            if delay_s is None:
                raise
        await asyncio.sleep(delay_s)
