"""The few parts of `triton_python_backend_utils` that the toolkit touches, faked for tests without a server."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

TRITONSERVER_MEMORY_CPU = 0
LOGGED: list[str] = []
CHILDREN: dict = {}
"""What the fake server serves: async functions by model name, from arrays by name to arrays by name."""


class TritonModelException(Exception):
    pass


class TritonError:
    INTERNAL = 1
    INVALID_ARG = 3
    UNAVAILABLE = 4

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Logger:
    @staticmethod
    def log_error(text):
        LOGGED.append(text)


@dataclass
class PreferredMemory:
    kind: int
    device: int = 0


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name, array):
        return cls(name, np.from_dlpack(array))

    def name(self):
        return self._name

    def as_numpy(self):
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
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


@dataclass
class InferenceRequest:
    """Both a request that `execute` receives and one that it makes."""

    inputs: list = field(default_factory=list)
    model_name: str = ""
    model_version: int = -1
    requested_output_names: list = field(default_factory=list)
    preferred_memory: PreferredMemory | None = None
    trace: object = None

    async def async_exec(self):
        if self.model_name not in CHILDREN:
            raise TritonModelException(f"Request for unknown model: '{self.model_name}' is not found")
        await asyncio.sleep(0)
        try:
            outputs = await CHILDREN[self.model_name]({t.name(): t.as_numpy() for t in self.inputs})
        except Exception as error:
            return InferenceResponse(error=TritonError(str(error)))
        return InferenceResponse([Tensor(name, outputs[name]) for name in self.requested_output_names])


def received(**arrays):
    """A request as `execute` receives it."""
    tensors = [Tensor(name, np.asarray(array)) for name, array in arrays.items()]
    return SimpleNamespace(inputs=lambda: tensors, trace=lambda: None)
