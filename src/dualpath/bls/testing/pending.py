"""What whoever sends a request to a model under test gets for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dualpath.bls.testing import validation
from dualpath.bls.testing.backend import InferenceResponse
from dualpath.bls.testing.received import ReceivedRequest

Arrays = dict[str, npt.NDArray[Any]]

PATIENCE_S = 30.0
"""How long an answer may take unless a test says otherwise: reached only if something hangs."""


class RequestFailed(Exception):
    """A request was answered with an error.

    Attributes:
        code: Triton's name of it, such as "INVALID_ARG".
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Pending:
    """A request that the model has got."""

    request: ReceivedRequest
    config: Mapping[str, Any]
    outputs: Collection[str]

    def result(self, timeout_s: float = PATIENCE_S) -> Arrays:
        """Wait for the answer and return its outputs by name.

        Raises:
            RequestFailed: the answer is an error.
            TimeoutError: it did not come.
        """
        response = self.request.answer(0, timeout_s)
        self.check()
        return self._arrays(response or InferenceResponse())

    def stream(self, timeout_s: float = PATIENCE_S) -> Iterator[Arrays]:
        """Yield the outputs of each answer of a decoupled model as it comes; raise as `result` does."""
        index = 0
        while (response := self.request.answer(index, timeout_s)) is not None:
            yield self._arrays(response)
            index += 1
        self.check()

    def cancel(self) -> None:
        """Let the caller go: the model is told so if it asks."""
        self.request.is_cancelled_by_caller = True

    def check(self) -> None:
        """Raise AssertionError if the model broke one of Triton's rules with this request."""
        assert not self.request.violations, "; ".join(self.request.violations)

    def _arrays(self, response: InferenceResponse) -> Arrays:
        if (error := response.error()) is not None:
            raise RequestFailed(error.message(), error.code().name)
        dtypes = {tensor["name"]: validation.dtype_of(tensor) for tensor in self.config["output"]}
        return {
            name: validation.to_wire(array, "BYTES" if array.dtype.kind in "OS" else "")
            for name, array in response.arrays().items()
            if name in dtypes and name in self.outputs
        }
