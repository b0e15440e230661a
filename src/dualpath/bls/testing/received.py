"""A request as a model receives it, what becomes of it, and what its sender gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing import backend
from dualpath.bls.testing.backend import InferenceResponse
from dualpath.bls.testing.config import dtype_of, to_wire
from dualpath.bls.testing.tensor import Tensor, TritonModelException

Arrays = dict[str, npt.NDArray[Any]]

PATIENCE_S = 30.0
"""How long an answer may take unless a test says otherwise: reached only if something hangs."""


class ReceivedRequest:
    """A request as `execute` receives it, and a record of its answers.

    Args:
        inputs: arrays by name; the bits of BF16 as uint16.
        parameters: request parameters by name: strings, whole numbers, booleans.
        timeout_us: the caller's timeout; 0 if there is none.
        trace: what `trace()` returns.
        id: the caller's id of the request.
        outputs: the outputs that the caller asks for.
        bf16: the inputs that are BF16.
        is_decoupled: whether the model may answer several times.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        timeout_us: int = 0,
        trace: Any = None,
        id: str = "",
        outputs: Collection[str] = (),
        bf16: Collection[str] = (),
        is_decoupled: bool = False,
    ) -> None:
        self.arrays = {
            name: array if hasattr(array, "__dlpack_device__") else np.asarray(array) for name, array in inputs.items()
        }
        self.answers: list[InferenceResponse] = []
        self.sent_flags: list[int] = []  # of the answers that went through the sender
        self.violations: list[str] = []  # of Triton's rules
        self.is_cancelled_by_caller = False
        self.asked = threading.Event()  # whether the caller is still there
        self.answered = threading.Event()  # for the last time
        self.has_sender = False
        self.is_decoupled = is_decoupled
        self.send_error: str | None = None  # what `send` is to fail with
        self._parameters, self._timeout_us, self._trace = parameters, timeout_us, trace
        self._id, self._outputs, self._bf16 = id, outputs, bf16
        self._changed = threading.Condition()

    def inputs(self) -> list[Tensor]:
        # The Python backend copies numbers too, when it makes a NumPy array of them.
        return [
            Tensor.of(name, array.copy() if isinstance(array, np.ndarray) else array, name in self._bf16)
            for name, array in self.arrays.items()
        ]

    def parameters(self) -> str:
        return json.dumps(self._parameters or {}, separators=(",", ":"))

    def timeout(self) -> int:
        return self._timeout_us

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int:
        return 0

    def flags(self) -> int:
        return 0

    def requested_output_names(self) -> set[str]:
        return set(self._outputs)

    def trace(self) -> Any:
        return self._trace

    def is_cancelled(self) -> bool:
        self.asked.set()
        if self.answered.is_set():
            self.violations.append("is_cancelled was asked after the final response")
        return self.is_cancelled_by_caller

    def get_response_sender(self) -> ResponseSender:
        if self.answered.is_set():
            self.violations.append("a response sender was taken after the final response")
        self.has_sender = True
        return ResponseSender(self)

    def take(self, answer: InferenceResponse | None, final: bool = True) -> None:
        """Record an answer; `final` says that no more come."""
        with self._changed:
            if answer is not None:
                self.answers.append(answer)
            if final:
                self.answered.set()
            self._changed.notify_all()

    def answer(self, index: int, timeout_s: float) -> InferenceResponse | None:
        """Wait for one of the answers; None if there are fewer.

        Raises:
            TimeoutError: it did not come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.answers) > index or self.answered.is_set(), timeout_s):
                raise TimeoutError(f"answer: expected one within {timeout_s:g} s, got none. Wait longer.")
            return self.answers[index] if len(self.answers) > index else None

    def end_of_execute(self, answer: InferenceResponse | None) -> None:
        """Take what `execute` returned for this request, and let its memory go, as Triton does."""
        if (answer is None) != self.has_sender:
            self.violations.append(f"execute returned {answer} for a request with has_sender={self.has_sender}")
        if answer is not None:
            self.take(answer)
        for array in self.arrays.values():
            if array.dtype != np.object_ and getattr(getattr(array, "flags", None), "writeable", True):
                array.fill(-1 if array.dtype.kind not in "bu" else 1)


class ResponseSender:
    """Answers a request, also after `execute` has returned."""

    def __init__(self, request: ReceivedRequest) -> None:
        self._request = request

    def is_cancelled(self) -> bool:
        return self._request.is_cancelled()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if self._request.send_error:
            raise TritonModelException(self._request.send_error)
        if flags not in (0, backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and flags == 0:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if self._request.answered.is_set():
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if self._request.answers and not self._request.is_decoupled and response is not None:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send more than one response."
            )
        self._request.sent_flags.append(flags)
        self._request.take(response, final=flags == backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


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
        dtypes = {tensor["name"]: dtype_of(tensor) for tensor in self.config["output"]}
        return {
            name: to_wire(array, "BYTES" if array.dtype.kind in "OS" else "")
            for name, array in response.arrays().items()
            if name in dtypes and name in self.outputs
        }
