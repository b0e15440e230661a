"""`triton_python_backend_utils`, faked: what models and the toolkit use of it, as Triton 24.10 behaves.

Each behaviour is a test that also runs on the real server. What ends or hangs the real server is an AssertionError.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from inspect import isgeneratorfunction
from typing import Any, Protocol

from dualpath.bls.testing.tensor import TRITON_STRING_TO_NUMPY, Tensor, TritonModelException

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2


class MemoryType(Enum):
    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU
TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU


@dataclass
class PreferredMemory:
    """Where a child's outputs are to lie."""

    kind: MemoryType
    device: int = 0


ErrorCode = Enum(
    "ErrorCode", "UNKNOWN INTERNAL NOT_FOUND INVALID_ARG UNAVAILABLE UNSUPPORTED ALREADY_EXISTS CANCELLED", start=0
)


class TritonError(Exception):
    """A model's error. A child's function may raise it, to choose the code."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = ErrorCode

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        if not isinstance(code, ErrorCode):
            raise TypeError(f"TritonError: expected a code such as TritonError.INVALID_ARG, got {code!r}. Pass one.")
        super().__init__(message)
        self._message, self._code = message, code

    def message(self) -> str:
        """Return the words."""
        return self._message

    def code(self) -> ErrorCode:
        """Return the code, one of the class's."""
        return self._code


class InferenceResponse:
    """Output tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"InferenceResponse: expected a TritonError, got {error!r}. Pass one.")
        self._tensors = [] if error else list(output_tensors)
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def arrays(self) -> dict[str, Any]:
        """Return the outputs by name, for a test."""
        return {tensor.name(): tensor.array() for tensor in self._tensors}


def _keeps(level: str) -> staticmethod[[str], None]:
    return staticmethod(lambda text: LOGGED.append((level, text)))


class Logger:
    """Keeps what is logged in `LOGGED`."""

    log_verbose, log_info = _keeps("verbose"), _keeps("info")
    log_warn, log_error = _keeps("warn"), _keeps("error")


class MetricFamily:
    """Metrics of one name."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.description, self.kind = name, description, kind

    def Metric(self, labels: Mapping[str, str]) -> Metric:
        return Metric(self, tuple(sorted(labels.items())))


class Metric:
    def __init__(self, family: MetricFamily, labels: tuple[tuple[str, str], ...]) -> None:
        self._family, self._labels = family, labels
        METRICS[family.name].setdefault(labels, 0)

    def value(self) -> float:
        return METRICS[self._family.name][self._labels]

    def increment(self, value: float) -> None:
        if self._family.kind == MetricFamily.HISTOGRAM or (self._family.kind == MetricFamily.COUNTER and value < 0):
            raise self._unsupported("increment", "it")
        METRICS[self._family.name][self._labels] += value

    def set(self, value: float) -> None:
        if self._family.kind != MetricFamily.GAUGE:
            raise self._unsupported("set", "Set")
        METRICS[self._family.name][self._labels] = value

    def _unsupported(self, verb: str, what: str) -> TritonModelException:
        kind = f"TRITONSERVER_METRIC_KIND_{self._family.kind.upper()}"
        return TritonModelException(f"Failed to {verb} metric value: {kind} does not support {what}")


class Served(Protocol):
    """A model that answers requests of others as Triton would have it do."""

    is_decoupled: bool

    def answer(self, call: InferenceRequest) -> Iterable[InferenceResponse]: ...


FakeOutputs = Mapping[str, Any]
FakeChild = Callable[[dict[str, Any]], FakeOutputs | Iterable[FakeOutputs]] | Served


@dataclass(kw_only=True, eq=False, repr=False)
class InferenceRequest:
    """A request that a model makes. Its arguments stay readable as attributes, for a test."""

    inputs: Sequence[Tensor]
    requested_output_names: Sequence[str]
    model_name: str
    request_id: str = ""
    correlation_id: Any = 0
    model_version: int = -1
    flags: int = 0
    timeout: int = 0
    preferred_memory: PreferredMemory | None = None
    trace: Any = None
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.inputs, self.requested_output_names = list(self.inputs), list(self.requested_output_names)
        self.parameters = dict(self.parameters or {})
        if not all(isinstance(tensor, Tensor) for tensor in self.inputs):
            raise TypeError(f"InferenceRequest: expected inputs of type Tensor, got {self.inputs}. Make tensors.")
        for value in self.parameters.values():
            if not isinstance(value, (bool, int, str)):
                raise TritonModelException(
                    f"Expect parameters values to have type bool/int/str, found type {type(value)}"
                )

    def exec(self, decoupled: bool = False) -> Any:
        """Return the response; or the responses, an empty one at the end if the child is decoupled."""
        answers = self._answers(decoupled)
        return answers if decoupled else next(iter(answers))

    async def async_exec(self, decoupled: bool = False) -> Any:
        """Do as `exec` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, self.exec, decoupled)

    def _answers(self, decoupled: bool) -> Iterator[InferenceResponse]:
        child, why = CHILDREN.get(self.model_name), ""
        is_decoupled = isgeneratorfunction(child) or getattr(child, "is_decoupled", False)
        if child is None:
            why = f"Failed for execute the inference request. Model '{self.model_name}' is not ready."
        elif is_decoupled and not decoupled:
            why = (
                f"Model {self.model_name} is using the decoupled. The current BLS request call doesn't support models "
                "using the decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or "
                "'async_exec' calls for decoupled models.'"
            )
        if child is None or why:
            yield InferenceResponse(error=TritonError(f"Model {self.model_name} - Error when running inference: {why}"))
            return
        CALLS.append(self)
        for response in child.answer(self) if hasattr(child, "answer") else self._ask(child):
            if (error := response.error()) and not KEPT["error codes"]:
                yield InferenceResponse(error=TritonError(error.message()))
            else:
                yield response
        if is_decoupled:
            yield InferenceResponse()

    def _ask(self, child: Callable[[dict[str, Any]], Any]) -> Iterator[InferenceResponse]:
        try:
            given = child({tensor.name(): tensor.array() for tensor in self.inputs})
            for outputs in [given] if isinstance(given, Mapping) else given:
                yield InferenceResponse(
                    [Tensor(name, array) for name, array in outputs.items() if name in self.requested_output_names]
                )
        except Exception as error:
            yield InferenceResponse(error=error if isinstance(error, TritonError) else TritonError(str(error)))


def get_input_tensor_by_name(request: Any, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((tensor for tensor in model_config.get("input", ()) if tensor["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((tensor for tensor in model_config.get("output", ()) if tensor["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    return model_name in CHILDREN


CHILDREN: dict[str, FakeChild] = {}
"""The models that can be called, by name."""
CALLS: list[InferenceRequest] = []
"""The calls that children received."""
LOGGED: list[tuple[str, str]] = []
"""What was logged: (level, text)."""
METRICS: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
"""Values by family name and sorted labels."""
KEPT = {"error codes": True}
"""Whether a child's error code reaches the model that asked, as from Triton 25.04 on; before, all are INTERNAL."""


def reset() -> None:
    """Forget all models, calls, metrics and log lines."""
    KEPT["error codes"] = True
    for state in (LOGGED, CHILDREN, CALLS, METRICS):
        state.clear()
