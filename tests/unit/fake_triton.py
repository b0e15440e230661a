"""The parts of `triton_python_backend_utils` that the toolkit touches, faked for tests without a server."""

import asyncio
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_GPU = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

DLPACK_CPU = 1

LOGGED: list[tuple[str, str]] = []
"""What was logged: (level, text)."""
CHILDREN: dict = {}
"""What the fake server serves: blocking functions by model name, from arrays by name to arrays by name."""
CALLS: list["InferenceRequest"] = []
"""The requests that children received."""
METRICS: dict[str, dict[tuple, float]] = defaultdict(dict)
"""Values by family name and sorted labels."""


def reset():
    for state in (LOGGED, CHILDREN, CALLS, METRICS):
        state.clear()


class TritonModelException(Exception):
    pass


class TritonError(Exception):
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    CANCELLED = 7

    def __init__(self, message, code=INTERNAL):
        super().__init__(message)
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Logger:
    @staticmethod
    def log_info(text):
        LOGGED.append(("info", text))

    @staticmethod
    def log_warn(text):
        LOGGED.append(("warn", text))

    @staticmethod
    def log_error(text):
        LOGGED.append(("error", text))


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name, description, kind):
        self.name, self.kind = name, kind

    def Metric(self, labels):
        return Metric(self, tuple(sorted(labels.items())))


class Metric:
    def __init__(self, family, labels):
        self._family, self._labels = family, labels
        METRICS[family.name].setdefault(labels, 0)

    def value(self):
        return METRICS[self._family.name][self._labels]

    def increment(self, value):
        if self._family.kind == MetricFamily.HISTOGRAM or (self._family.kind == MetricFamily.COUNTER and value < 0):
            raise TritonModelException("TRITONSERVER_METRIC_KIND does not support this increment")
        METRICS[self._family.name][self._labels] += value

    def set(self, value):
        if self._family.kind != MetricFamily.GAUGE:
            raise TritonModelException("TRITONSERVER_METRIC_KIND does not support Set")
        METRICS[self._family.name][self._labels] = value


@dataclass
class PreferredMemory:
    kind: int
    device: int = 0


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name, array):
        on_cpu = array.__dlpack_device__()[0] == DLPACK_CPU
        return cls(name, np.from_dlpack(array) if on_cpu else array.__dlpack__())

    def name(self):
        return self._name

    def is_cpu(self):
        return isinstance(self._array, np.ndarray)

    def as_numpy(self):
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        return self._array

    def to_dlpack(self):
        return self._array.__dlpack__()

    def array(self):
        """What the tensor holds, as a test's own doing."""
        return self._array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def output_tensors(self):
        return self._tensors

    def arrays(self):
        return {tensor.name(): tensor.array() for tensor in self._tensors}


@dataclass
class InferenceRequest:
    """A request that a model makes."""

    inputs: list = field(default_factory=list)
    model_name: str = ""
    model_version: int = -1
    requested_output_names: list = field(default_factory=list)
    preferred_memory: PreferredMemory | None = None
    trace: object = None
    request_id: str = ""
    timeout: int = 0
    parameters: dict = field(default_factory=dict)

    async def async_exec(self):
        return await asyncio.get_running_loop().run_in_executor(None, self.exec)

    def exec(self, decoupled=False):
        if decoupled:
            return self._responses()
        if self.model_name not in CHILDREN:
            raise TritonModelException(f"Request for unknown model: '{self.model_name}' is not found")
        CALLS.append(self)
        try:
            outputs = CHILDREN[self.model_name]({tensor.name(): tensor.array() for tensor in self.inputs})
        except Exception as error:
            return InferenceResponse(error=error if isinstance(error, TritonError) else TritonError(str(error)))
        return self._response(outputs)

    def _response(self, outputs):
        return InferenceResponse(
            [Tensor(name, outputs[name]) for name in self.requested_output_names if name in outputs]
        )

    def _responses(self):
        CALLS.append(self)
        try:
            for outputs in CHILDREN[self.model_name]({tensor.name(): tensor.array() for tensor in self.inputs}):
                yield self._response(outputs)
        except Exception as error:
            yield InferenceResponse(error=TritonError(str(error)))
        yield InferenceResponse()


class ReceivedRequest:
    """A request as `execute` receives it, and a record of what became of it.

    Args:
        inputs: arrays by name.
        parameters: request parameters by name.
        timeout_us: the caller's timeout; 0 where there is none.
        trace: what `trace()` returns.
    """

    def __init__(self, inputs, parameters=None, timeout_us=0, trace=None, id="", outputs=()):
        self.arrays = {
            name: array if hasattr(array, "__dlpack_device__") else np.asarray(array) for name, array in inputs.items()
        }
        self.answers: list[InferenceResponse] = []
        self.flags: list[int] = []  # of the answers that went through the sender
        self.violations: list[str] = []  # of Triton's rules
        self.is_cancelled_by_caller = False
        self.asked = threading.Event()  # whether the caller is still there
        self.answered = threading.Event()
        self.has_sender = False
        self.send_error: str | None = None  # what `send` is to fail with
        self._parameters, self._timeout_us, self._trace = parameters, timeout_us, trace
        self._id, self._outputs = id, outputs

    def inputs(self):
        return [Tensor(name, array.copy()) for name, array in self.arrays.items()]  # as the Python backend does

    def parameters(self):
        return json.dumps(self._parameters) if self._parameters else ""

    def timeout(self):
        return self._timeout_us

    def request_id(self):
        return self._id

    def requested_output_names(self):
        return list(self._outputs)

    def trace(self):
        return self._trace

    def is_cancelled(self):
        self.asked.set()
        if self.answers:
            self.violations.append("is_cancelled was asked after the final response")
        return self.is_cancelled_by_caller

    def get_response_sender(self):
        if self.answers:
            self.violations.append("a response sender was taken after the final response")
        self.has_sender = True
        return ResponseSender(self)

    def take(self, answer):
        self.answers.append(answer)
        self.answered.set()

    def end_of_execute(self, answer):
        """Take what `execute` returned for this request, and let its memory go, as Triton does."""
        if (answer is None) != self.has_sender:
            self.violations.append(f"execute returned {answer} for a request with has_sender={self.has_sender}")
        if answer is not None:
            self.take(answer)
        for array in self.arrays.values():
            if array.dtype != np.object_:
                array.fill(-1)


class ResponseSender:
    def __init__(self, request):
        self._request = request

    def send(self, response=None, flags=0):
        if self._request.send_error:
            raise TritonModelException(self._request.send_error)
        if TRITONSERVER_RESPONSE_COMPLETE_FINAL in self._request.flags:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        self._request.flags.append(flags)
        self._request.take(response)


def received(**arrays):
    """A request with these inputs, as `execute` receives it."""
    return ReceivedRequest(arrays)
