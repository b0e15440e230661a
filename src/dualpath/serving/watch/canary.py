"""One small request per model, again and again, by which it is told whether the model still answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dualpath.extras import needs

with needs("cli"):
    import tritonclient.grpc as grpcclient
    from tritonclient.grpc.model_config_pb2 import DataType
    from tritonclient.utils import InferenceServerException, triton_to_np_dtype

REQUEST_ID = "dualpath-canary"


@dataclass
class Canary:
    """A model's request that is on its way, or the last that was answered.

    Attributes:
        sent: when the newest was sent, by the watchdog's clock.
        answered: when one was last answered, by an error too.
        scored: when one was last answered with finite outputs.
        error: why the last one failed; empty if it did not.
        pending: whether the newest is still on its way.
    """

    sent: float
    answered: float = -math.inf
    scored: float = -math.inf
    error: str = ""
    pending: bool = True


class Canaries:
    """Sends the canaries of a server's models by gRPC.

    Args:
        client: of the server.
        clock: seconds, such as `time.monotonic`.
        timeout_s: when a request that is not answered is given up.
    """

    def __init__(
        self, client: grpcclient.InferenceServerClient, clock: Callable[[], float], timeout_s: float = 60
    ) -> None:
        self._client, self._clock, self._timeout_s = client, clock, timeout_s
        self._inputs: dict[str, list[grpcclient.InferInput]] = {}
        self.states: dict[str, Canary] = {}

    def send(self, model: str) -> None:
        """Send a model's canary, unless the one before is on its way. Whatever comes of it is in `states`."""
        now = self._clock()
        state = self.states.get(model)
        if state is not None and state.pending:
            return
        state = self.states.setdefault(model, Canary(now))
        state.sent, state.pending = now, True
        try:
            if model not in self._inputs:
                config = self._client.get_model_config(model, client_timeout=2).config
                self._inputs[model] = inputs(config)
            self._client.async_infer(
                model,
                self._inputs[model],
                partial(self._note, state),
                request_id=REQUEST_ID,
                client_timeout=self._timeout_s,
            )
        except InferenceServerException as error:
            self._note(state, None, error)

    def _note(self, state: Canary, result: Any, error: InferenceServerException | None) -> None:
        now = self._clock()
        state.pending = False
        state.error = "" if error is None else " ".join(str(error.message()).split())
        if error is None:
            state.answered = now
            if all_finite(result):
                state.scored = now
            else:
                state.error = "the model's answer is not finite"
        elif error.status() != "StatusCode.DEADLINE_EXCEEDED":
            state.answered = now  # a model that refuses lives


def inputs(config: Any) -> list[grpcclient.InferInput]:
    """Return the smallest request that a model's config allows: one row, of ones and of short texts.

    Args:
        config: the `ModelConfig` message.
    """
    batch = [1] if config.max_batch_size > 0 else []
    request = []
    for tensor in config.input:
        if tensor.optional:
            continue
        shape = batch + [max(1, dim) for dim in tensor.dims]
        dtype = str(DataType.Name(tensor.data_type)).removeprefix("TYPE_").replace("STRING", "BYTES")
        values = (
            np.full(shape, b"The cat sat on the mat.", np.object_)
            if dtype == "BYTES"
            else np.full(shape, 0.5 if dtype.startswith("FP") else 1, triton_to_np_dtype(dtype))
        )
        item = grpcclient.InferInput(tensor.name, shape, dtype)
        item.set_data_from_numpy(values)
        request.append(item)
    return request


def all_finite(result: Any) -> bool:
    """Tell whether all numbers of an answer are finite."""
    outputs = (result.as_numpy(output.name) for output in result.get_response().outputs)
    return all(np.isfinite(array).all() for array in outputs if array is not None and array.dtype.kind == "f")
