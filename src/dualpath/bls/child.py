"""Call another model of the same server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.errors import ChildFailed, ChildUnavailable
from dualpath.bls.metrics import Metrics
from dualpath.bls.request import Trace
from dualpath.bls.tensors import to_tensor
from dualpath.bls.triton import pb_utils

# All of a child's errors arrive as INTERNAL; only Triton's own words tell that it is not there.
_UNAVAILABLE = re.compile(
    r"^(Model \S+ - Error when running inference: )?(Failed for execute the inference request\. )?"
    r"(Model '[^']*' is not ready|Request for unknown model: |Stub process '[^']*' is not healthy)"
)


class Child:
    """A model that this one calls.

    Args:
        name: the model's name on this server.
        outputs: the outputs to ask for. They arrive on the CPU wherever the child runs: small answers only.
        version: a version of the model; -1 lets Triton's version policy choose.
        metrics: where calls are counted.
    """

    def __init__(self, name: str, outputs: tuple[str, ...], version: int = -1, metrics: Metrics | None = None) -> None:
        self.name = name
        self.outputs = outputs
        self._version = version
        self._metrics = metrics
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    async def call(self, inputs: Mapping[str, Any], trace: Trace | None = None) -> dict[str, npt.NDArray[Any]]:
        """Run the child once and return its outputs by name.

        Args:
            inputs: arrays by input name, on any device, passed without a copy here. Triton copies those on a GPU from
                device to device as it hands them on.
            trace: a `Request.trace`, which makes the call a step of it.
        Raises:
            ChildUnavailable: the child is not there.
            ChildFailed: it answered with an error.
        """
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=self._version,
            inputs=[to_tensor(name, array) for name, array in inputs.items()],
            requested_output_names=list(self.outputs),
            preferred_memory=self._memory,
            **({"trace": trace.raw} if trace and not trace.closed else {}),
        )
        try:
            call = request.async_exec()
            response = await (trace.lend(call) if trace and not trace.closed else call)
        except pb_utils.TritonModelException as error:
            raise self._failure(str(error)) from error
        if response.has_error():
            raise self._failure(response.error().message())
        outputs = {tensor.name(): np.from_dlpack(tensor) for tensor in response.output_tensors()}
        if missing := [name for name in self.outputs if name not in outputs]:
            raise self._failure(f"expected an output {missing[0]!r}, got none.")
        self._count("ok")
        return outputs

    def _failure(self, message: str) -> ChildFailed:
        unavailable = _UNAVAILABLE.search(message) is not None
        self._count("unavailable" if unavailable else "failed")
        return (ChildUnavailable if unavailable else ChildFailed)(f"{self.name}: {message}")

    def _count(self, outcome: str) -> None:
        if self._metrics:
            self._metrics.count("calls", child=self.name, outcome=outcome)
