"""A client's connection to a server: what goes over it, and what comes back if it fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from dualpath.serving.client import TLS

CONNECT_TIMEOUT_S = 2.0

NUMPY_DTYPES = {
    **{
        f"{kind}{bits}": f"<{letter}{bits // 8}"
        for kind, letter in (("INT", "i"), ("UINT", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?", "BF16": "<u2"},
}

_INFER, _STREAM = (f"/inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))

Send = Callable[[Any], Awaitable[object]]
"""Sends one request and returns when it is answered; whatever it raises counts as an error."""

Headers = tuple[tuple[str, str], ...]

Connect = Callable[[str], AbstractAsyncContextManager[Send]]
"""Opens one client's connection to a server's gRPC address."""


@asynccontextmanager
async def over_grpc(url: str, headers: Headers = ()) -> AsyncIterator[Send]:
    """Open a connection of its own that takes serialised ModelInferRequests.

    Args:
        url: such as "localhost:8001", or "grpcs://scores.example.org:8001" for TLS.
        headers: that go with each request, by lower-case name.
    """
    async with _channel(url) as channel:
        infer = channel.unary_unary(_INFER)  # bytes in, bytes out
        yield partial(infer, metadata=headers) if headers else infer


@asynccontextmanager
async def over_stream(url: str, headers: Headers = ()) -> AsyncIterator[Send]:
    """Open a connection as `over_grpc`, with a stream for each request; an answer is the tuple of its responses."""
    async with _channel(url) as channel:
        infer = channel.stream_stream(_STREAM)

        async def send(request: bytes) -> tuple[bytes, ...]:
            call = infer(metadata=headers)
            await call.write(request)
            await call.done_writing()  # after the last response Triton ends the stream
            messages = [service_pb2.ModelStreamInferResponse.FromString(message) async for message in call]
            for message in messages:
                if message.error_message:
                    raise RuntimeError(message.error_message)
            return tuple(message.infer_response.SerializeToString() for message in messages)

        yield send


@asynccontextmanager
async def _channel(url: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    options += [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    if url.startswith(TLS):
        opened = grpc.aio.secure_channel(url.removeprefix(TLS), grpc.ssl_channel_credentials(), options=options)
    else:
        opened = grpc.aio.insecure_channel(url, options=options)
    async with opened as channel:
        with suppress(TimeoutError):  # then its first request fails, and is counted
            await asyncio.wait_for(channel.channel_ready(), CONNECT_TIMEOUT_S)
        yield channel


def serialise(
    model: str, inputs: Sequence[grpcclient.InferInput], outputs: Sequence[str] = (), version: str = ""
) -> bytes:
    """Serialise one request for these outputs, or for all."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name in outputs:
        request.outputs.add(name=name)
    for tensor in inputs:
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    return bytes(request.SerializeToString())


def decode_all(responses: Sequence[bytes], axis: int) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of a request's responses, in their order along a new axis.

    If shapes differ, each array is filled up to the largest, and beside it stands a 1 for each value and 0 for filler.

    Raises:
        ValueError: as `decode`, or responses have an output of different numbers of dimensions.
    """
    answers = [decode(response) for response in responses]
    found = {}
    for name in dict.fromkeys(name for answer in answers for name in answer):
        arrays = [answer[name] for answer in answers if name in answer]
        if len({array.shape for array in arrays}) > 1:
            largest = np.max([array.shape for array in arrays], axis=0)
            fill = [[(0, size) for size in largest - array.shape] for array in arrays]
            both = [
                (np.pad(it, width), np.pad(np.ones_like(it), width)) for it, width in zip(arrays, fill, strict=True)
            ]
            arrays = [np.stack(it, axis) for it in both]
        found[name] = np.stack(arrays, axis)
    return found


def decode(response: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of a serialised ModelInferResponse by name; BF16 becomes float32.

    Raises:
        ValueError: an output is not what its shape and type say.
    """
    answer = service_pb2.ModelInferResponse.FromString(response)
    described = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: array_of(output.name, output.datatype, output.shape, raw) for output, raw in described}


def array_of(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> npt.NDArray[Any]:
    """Return an output as an array; BF16 becomes float32.

    Raises:
        ValueError: it is not what its shape and type say.
    """
    # Not by tritonclient: what its versions make of BF16 and of empty tensors differs.
    if datatype == "BYTES":
        array: npt.NDArray[Any] = np.array([*_texts(raw), None], np.object_)[:-1]
    else:
        array = from_bytes(datatype, raw)
    if len(array) != math.prod(shape):
        raise ValueError(f"output {name}: expected the values of shape {list(shape)}, got {len(array)}. See its model.")
    return array.reshape(tuple(shape))


def from_bytes(datatype: str, raw: bytes) -> npt.NDArray[Any]:
    """Return little-endian numbers as an array; BF16 becomes float32."""
    array = np.frombuffer(raw, NUMPY_DTYPES[datatype])
    return (array.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else array


def _texts(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        yield raw[at + 4 : end]
        at = end


def reason(error: BaseException) -> str:
    """Return an error in one line, as its server worded it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return " ".join(text.split()) or type(error).__name__
