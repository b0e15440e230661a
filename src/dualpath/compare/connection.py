"""A client's connection to a server: what goes over it, and what comes back if it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

CONNECT_TIMEOUT_S = 2.0

_INFER = "/inference.GRPCInferenceService/ModelInfer"

Send = Callable[[Any], Awaitable[object]]
"""Sends one request and returns when it is answered; whatever it raises counts as an error."""

Connect = Callable[[str], AbstractAsyncContextManager[Send]]
"""Opens one client's connection to a server's gRPC address."""


@asynccontextmanager
async def over_grpc(url: str) -> AsyncIterator[Send]:
    """Open a connection of its own that takes serialised ModelInferRequests."""
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(url, options=[("grpc.use_local_subchannel_pool", 1), *unlimited]) as channel:
        with suppress(TimeoutError):  # then its first request fails, and is counted
            await asyncio.wait_for(channel.channel_ready(), CONNECT_TIMEOUT_S)
        yield channel.unary_unary(_INFER)  # bytes in, bytes out


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


def reason(error: BaseException) -> str:
    """Return an error in one line, as its server worded it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return " ".join(text.split()) or type(error).__name__
