"""A client's connection by gRPC, in streams, or by HTTP: what goes over it, and what comes back if it fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import aiohttp
import grpc
import grpc.aio
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from dualpath.compare.tensors import array_of
from dualpath.serving.client import TLS

CONNECT_TIMEOUT_S = 2.0
SCHEMES = ("http://", "https://")
HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_KEPT = 128 * 2**20
"""Bytes of requests that are kept as HTTP wants them, so that a client makes them once."""

_INFER, _STREAM = (f"/inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))

Send = Callable[[Any], Awaitable[Any]]
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


class HTTPRefusal(RuntimeError):
    """The server answered with an error; its `status` is that of HTTP, of which 400 is the caller's fault."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def is_http(url: str) -> bool:
    """Return whether an address is one of HTTP."""
    return url.startswith(SCHEMES)


@asynccontextmanager
async def over_http(url: str, headers: Headers = ()) -> AsyncIterator[Send]:
    """Open a connection of its own that takes serialised ModelInferRequests, as `over_grpc` does.

    An answer is what `decode_http` takes. `url` is such as "http://localhost:8000", or "https://…" for TLS (authorities
    beside the system's: SSL_CERT_FILE).
    """
    no_limit = aiohttp.ClientTimeout(total=None)  # whoever sends sets one
    connector = aiohttp.TCPConnector(limit=0)  # as many requests at once as by gRPC
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=no_limit) as session:

        async def send(request: bytes) -> bytes:
            path, of_request, body = _kept[request]
            async with session.post(url.rstrip("/") + path, data=body, headers=of_request) as response:
                answer = await response.read()
                if response.status != 200:
                    raise HTTPRefusal(response.status, _error_in(answer) or f"HTTP status {response.status}")
                return int(response.headers.get(HEADER_LENGTH, len(answer))).to_bytes(4) + answer

        yield send


def decode_http(answer: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of an answer by name, as `tensors.decode` does."""
    at = 4 + int.from_bytes(answer[:4])
    outputs = {}
    for output in json.loads(answer[4:at]).get("outputs", ()):
        size = output.get("parameters", {}).get("binary_data_size", 0)
        outputs[output["name"]] = array_of(output["name"], output["datatype"], output["shape"], answer[at : at + size])
        at += size
    return outputs


class _Kept(dict[bytes, tuple[str, dict[str, str], bytes]]):
    """Requests as HTTP wants them, by what gRPC takes; when they are too many bytes, all are made anew."""

    n_bytes = 0

    def __missing__(self, request: bytes) -> tuple[str, dict[str, str], bytes]:
        if self.n_bytes + len(request) > MAX_KEPT:
            self.clear()
            self.n_bytes = 0
        self.n_bytes += len(request)
        made = self[request] = _as_http(request)
        return made


_kept = _Kept()


def _as_http(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the path, the headers and the body of a serialised ModelInferRequest."""
    asked = service_pb2.ModelInferRequest.FromString(request)
    described: dict[str, Any] = {
        "inputs": [
            {
                "name": it.name,
                "shape": list(it.shape),
                "datatype": it.datatype,
                "parameters": {"binary_data_size": len(raw)},
            }
            for it, raw in zip(asked.inputs, asked.raw_input_contents, strict=True)
        ],
        "outputs": [{"name": it.name, "parameters": {"binary_data": True}} for it in asked.outputs],
        "parameters": {name: getattr(it, it.WhichOneof("parameter_choice")) for name, it in asked.parameters.items()},
    }
    if not asked.outputs:
        described["parameters"]["binary_data_output"] = True
        del described["outputs"]
    header = json.dumps(described).encode()
    version = f"/versions/{asked.model_version}" if asked.model_version else ""
    return (
        f"/v2/models/{asked.model_name}{version}/infer",
        {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"},
        b"".join([header, *asked.raw_input_contents]),
    )


def _error_in(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


def reason(error: BaseException) -> str:
    """Return an error in one line, as its server worded it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return " ".join(text.split()) or type(error).__name__
