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

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing import dlpack

Array = npt.NDArray[Any]

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_BOOL": bool,
    **{f"TYPE_{each.upper()}": np.dtype(each).type for each in ("uint8", "uint16", "uint32", "uint64")},
    **{f"TYPE_{each.upper()}": np.dtype(each).type for each in ("int8", "int16", "int32", "int64")},
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}


class TritonModelException(Exception):
    """What Triton raises in a model."""


class ErrorCode(Enum):
    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError(Exception):
    """A model's error. A child's function may raise it, to choose the code."""

    UNKNOWN = ErrorCode.UNKNOWN
    INTERNAL = ErrorCode.INTERNAL
    NOT_FOUND = ErrorCode.NOT_FOUND
    INVALID_ARG = ErrorCode.INVALID_ARG
    UNAVAILABLE = ErrorCode.UNAVAILABLE
    UNSUPPORTED = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = ErrorCode.ALREADY_EXISTS
    CANCELLED = ErrorCode.CANCELLED

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        if not isinstance(code, ErrorCode):
            raise TypeError(f"TritonError: expected a code such as TritonError.INVALID_ARG, got {code!r}.")
        super().__init__(message)
        self._message, self._code = message, code

    def message(self) -> str:
        """Return the words."""
        return self._message

    def code(self) -> ErrorCode:
        """Return the code, one of the class's."""
        return self._code


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


class Tensor:
    """A named array. BF16 is kept as its 16 bits, which only DLPack shows as such."""

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor {name}: expected a numpy.ndarray, got {type(array).__name__}.")
        if array.dtype.kind not in "biufOS" or not array.dtype.isnative or array.dtype == np.longdouble:
            raise TritonModelException("NumPy dtype is not supported.")
        self._name = name
        self._array: Any = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        self._is_bf16 = False

    @classmethod
    def of(cls, name: str, array: Any, is_bf16: bool = False) -> Tensor:
        """Make a tensor of an array on any device, or of the bits of BF16."""
        tensor = cls.__new__(cls)
        tensor._name, tensor._array, tensor._is_bf16 = name, array, is_bf16
        return tensor

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> Tensor:
        assert not isinstance(array, np.ndarray), (
            f"Tensor.from_dlpack({name!r}, a NumPy array) ends the model's process"
        )
        if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        if array.__dlpack_device__()[0] != dlpack.CPU:
            return cls.of(name, array.__dlpack__())
        return cls.of(name, *dlpack.read(array.__dlpack__()))

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return isinstance(self._array, np.ndarray)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def as_numpy(self) -> Array:
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        if self._is_bf16:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        array: Array = self._array
        return array

    def array(self) -> Any:
        """Return what the tensor holds, for a test: BF16 as uint16."""
        return self._array

    def is_bf16(self) -> bool:
        """Tell, for a test, whether it holds BF16."""
        return self._is_bf16

    def to_dlpack(self) -> Any:
        return self.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        if self.is_cpu() and self._array.dtype.kind in "OS":
            raise TritonModelException("DLPack does not have support for string tensors.")
        capsule = self._array.__dlpack__(**options)
        return dlpack.retype(capsule, dlpack.BFLOAT) if self._is_bf16 else capsule

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class InferenceResponse:
    """Output tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"InferenceResponse: expected a TritonError, got {error!r}.")
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


class Served(Protocol):
    """A model that answers requests of others as Triton would have it do."""

    is_decoupled: bool

    def answer(self, call: InferenceRequest) -> Iterable[InferenceResponse]: ...


Outputs = Mapping[str, Any]
Child = Callable[[dict[str, Any]], Outputs | Iterable[Outputs]] | Served


class InferenceRequest:
    """A request that a model makes. Its arguments stay readable as attributes, for a test."""

    def __init__(
        self,
        *,
        inputs: Sequence[Tensor],
        requested_output_names: Sequence[str],
        model_name: str,
        request_id: str = "",
        correlation_id: Any = 0,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        if not all(isinstance(tensor, Tensor) for tensor in inputs):
            raise TypeError(f"InferenceRequest: expected inputs of type Tensor, got {list(inputs)}.")
        for value in (parameters or {}).values():
            if not isinstance(value, (bool, int, str)):
                raise TritonModelException(
                    f"Expect parameters values to have type bool/int/str, found type {type(value)}"
                )
        self.inputs, self.requested_output_names = list(inputs), list(requested_output_names)
        self.model_name, self.model_version = model_name, model_version
        self.request_id, self.correlation_id, self.flags = request_id, correlation_id, flags
        self.timeout, self.parameters = timeout, dict(parameters or {})
        self.preferred_memory, self.trace = preferred_memory, trace

    def exec(self, decoupled: bool = False) -> Any:
        """Return the response; or the responses, an empty one at the end if the child is decoupled."""
        answers = self._answers(decoupled)
        return answers if decoupled else next(iter(answers))

    async def async_exec(self, decoupled: bool = False) -> Any:
        """Do as `exec` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, self.exec, decoupled)

    def _answers(self, decoupled: bool) -> Iterator[InferenceResponse]:
        begin = f"Model {self.model_name} - Error when running inference: "
        if (child := CHILDREN.get(self.model_name)) is None:
            yield InferenceResponse(
                error=TritonError(
                    f"{begin}Failed for execute the inference request. Model '{self.model_name}' is not ready."
                )
            )
            return
        is_decoupled = isgeneratorfunction(child) or getattr(child, "is_decoupled", False)
        if is_decoupled and not decoupled:
            yield InferenceResponse(
                error=TritonError(
                    f"{begin}Model {self.model_name} is using the decoupled. The current BLS request call doesn't "
                    "support models using the decoupled transaction policy. Please use 'decoupled=True' argument to "
                    "the 'exec' or 'async_exec' calls for decoupled models.'"
                )
            )
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


class Logger:
    """Keeps what is logged in `LOGGED`."""

    @staticmethod
    def log_verbose(text: str) -> None:
        LOGGED.append(("verbose", text))

    @staticmethod
    def log_info(text: str) -> None:
        LOGGED.append(("info", text))

    @staticmethod
    def log_warn(text: str) -> None:
        LOGGED.append(("warn", text))

    @staticmethod
    def log_error(text: str) -> None:
        LOGGED.append(("error", text))


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
            raise TritonModelException(
                f"Failed to increment metric value: TRITONSERVER_METRIC_KIND_{self._family.kind.upper()} does not "
                "support it"
            )
        METRICS[self._family.name][self._labels] += value

    def set(self, value: float) -> None:
        if self._family.kind != MetricFamily.GAUGE:
            raise TritonModelException(
                f"Failed to set metric value: TRITONSERVER_METRIC_KIND_{self._family.kind.upper()} does not support Set"
            )
        METRICS[self._family.name][self._labels] = value


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


LOGGED: list[tuple[str, str]] = []
"""What was logged: (level, text)."""
CHILDREN: dict[str, Child] = {}
"""The models that can be called, by name."""
CALLS: list[InferenceRequest] = []
"""The calls that children received."""
METRICS: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
"""Values by family name and sorted labels."""

KEPT = {"error codes": True}
"""Whether a child's error code reaches the model that asked, as from Triton 25.04 on; before, all are INTERNAL."""


def reset() -> None:
    """Forget all models, calls, metrics and log lines."""
    KEPT["error codes"] = True
    for state in (LOGGED, CHILDREN, CALLS, METRICS):
        state.clear()
