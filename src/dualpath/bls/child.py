"""Call another model of the same server, one call for each `call`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from dualpath.bls.calls import Called, Carried, Outputs, in_thread
from dualpath.bls.errors import ChildError
from dualpath.bls.request import Request
from dualpath.bls.run import Leave, Run, blocking, current_run


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
            return self._given(await in_thread(partial(self._timed, inputs, Carried())))
        key = [dict(inputs)]
        if known := run.memo.recall(self, key):
            outputs = known[0]
        else:
            outputs = await (self._inline(run, inputs) if run.inline else self._on_loop(run, inputs))
        if run.inline:
            run.memo.note(self, key, [outputs])
        return self._given(outputs)

    async def stream(self, inputs: Mapping[str, Any]) -> AsyncIterator[Any]:
        """Call a decoupled model and iterate over its responses, each as `call` would return it.

        Every step waits in a thread. Leaving the loop early leaves the model to itself: Triton cannot cancel it before
        release 25.04.

        Raises:
            As `call` does, at any step.
        """
        run = current_run()
        if run is not None and run.inline:
            raise Leave
        carried = Carried.by([run.request], self.forward_parameters) if run else Carried()
        answers = self._exec_stream(inputs, carried)
        while True:
            try:
                async with asyncio.timeout_at(run.request.deadline if run else None):
                    outputs = await in_thread(partial(next, answers, None))
            except TimeoutError:
                raise self._late() from None
            if outputs is None:
                return
            yield self._given(outputs)

    async def _inline(self, run: Run, inputs: Mapping[str, Any]) -> Outputs:
        if error := run.memo.unavailable.get(self):
            raise error
        self._leave_if_slow(1)
        carried = Carried.by([run.request], self.forward_parameters)
        try:
            outputs: Outputs = await blocking(partial(self._timed, inputs, carried))
        except ChildError as error:
            raise self._failed_inline(run, error) from None
        return outputs

    async def _on_loop(self, run: Run, inputs: Mapping[str, Any]) -> Outputs:
        request: Request = run.request

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
                outputs: Outputs = await self._with_retries(once, [request], run.attempts.pop(self, 0))
                return outputs
        except TimeoutError:
            raise self._late() from None

    def _timed(self, inputs: Mapping[str, Any], carried: Carried) -> Outputs:
        started = time.perf_counter()
        outputs = self._exec(inputs, carried)
        self._pace.note(1, time.perf_counter() - started)
        return outputs
