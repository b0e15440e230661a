"""How two models of a server are asked: by gRPC, in streams, or by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dualpath.compare import over_http
from dualpath.compare.agreement import Answer
from dualpath.compare.connection import Headers, Send, decode, decode_all, over_grpc, over_stream
from dualpath.compare.inputs import Row
from dualpath.compare.requests import request
from dualpath.compare.target import Pair, Target
from dualpath.errors import UserError

Ask = Callable[[Sequence[int], bytes], Awaitable[Answer]]
"""Sends one request of these rows to a model, and what makes it a step of a sequence."""


@dataclass(frozen=True)
class Wire:
    """The way to two models of a server.

    Attributes:
        url: the server's address.
        headers: that go with each request.

    Raises:
        UserError: they are asked in streams, and the address is one of HTTP.
    """

    url: str
    pair: Pair
    headers: Headers = ()

    def __post_init__(self) -> None:
        if self.pair.streams and over_http.is_http(self.url):
            raise UserError(
                f"--url: expected the gRPC address of a server of decoupled models, got {self.url}. "
                "Give HOST:PORT of gRPC."
            )

    def connect(self, url: str) -> AbstractAsyncContextManager[Send]:
        """Open a connection of its own."""
        by_http = over_http.over_http if over_http.is_http(url) else over_grpc
        return (over_stream if self.pair.streams else by_http)(url, self.headers)

    def decode(self, target: Target, answer: Any) -> Answer:
        """Return the outputs of a model's answer.

        Raises:
            ValueError: an output is not what its shape and type say.
        """
        if self.pair.streams:
            return decode_all(answer, axis=int(target.max_batch_size > 0))
        return over_http.decode(answer) if over_http.is_http(self.url) else decode(answer)

    @asynccontextmanager
    async def both(self, a: Target, b: Target, rows: Sequence[Row], timeout_s: float) -> AsyncIterator[tuple[Ask, Ask]]:
        """Connect for asking each of two models."""
        async with self.connect(self.url) as send_a, self.connect(self.url) as send_b:

            def asking(send: Callable[[Any], Awaitable[Any]], target: Target) -> Ask:
                async def ask(numbers: Sequence[int], more: bytes) -> Answer:
                    async with asyncio.timeout(timeout_s):
                        answer = await send(request(target, self.pair, [rows[number] for number in numbers]) + more)
                        return self.decode(target, answer)

                return ask

            yield asking(send_a, a), asking(send_b, b)
