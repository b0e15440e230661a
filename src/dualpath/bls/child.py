"""Call another model of the same server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils


class ChildFailed(RuntimeError):
    """A called model did not answer. The message names the model and gives its words."""


class Child:
    """A model that this one calls.

    Args:
        name: the model's name on this server.
        outputs: the outputs to ask for. They arrive on the CPU wherever the child runs: they are small here.
        version: a version of the model; -1 lets Triton's version policy choose.
    """

    def __init__(self, name: str, outputs: tuple[str, ...], version: int = -1) -> None:
        self.name = name
        self._outputs = outputs
        self._version = version
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    async def call(self, inputs: Mapping[str, Any], trace: Any) -> dict[str, npt.NDArray[Any]]:
        """Run the child once.

        Args:
            inputs: arrays by input name, on any device, passed without a copy here.
            trace: the caller's `request.trace()`, which makes the call a step of it.
        Raises:
            ChildFailed: the child is not there or answered with an error.
        """
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=self._version,
            inputs=[wrap(name, array) for name, array in inputs.items()],
            requested_output_names=list(self._outputs),
            preferred_memory=self._memory,
            trace=trace,
        )
        try:
            response = await request.async_exec()
        except pb_utils.TritonModelException as error:  # the model is not loaded
            raise ChildFailed(f"{self.name}: {error}") from error
        if response.has_error():
            raise ChildFailed(f"{self.name}: {response.error().message()}")
        tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
        return {name: np.from_dlpack(tensors[name]) for name in self._outputs}


def wrap(name: str, array: Any) -> Any:
    """Make a Triton tensor of an array on any device, without a copy.

    NumPy arrays are shared by reference: release 24.10 would copy the memory that a CPU capsule points to, and Python
    would log an error for every capsule, since Triton gives them a name that NumPy does not know.
    """
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, array)
