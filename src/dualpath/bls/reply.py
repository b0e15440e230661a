"""One request's answer: given exactly once, with the return of `execute` or later by its sender."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

from dualpath.bls.request import Arrival
from dualpath.bls.triton import pb_utils


class Reply:
    """A request that is to be answered.

    Attributes:
        started: when `execute` got it, in seconds of `time.perf_counter()`.
        n_rows: rows of the request; 0 if it could not be read.
        error: why it could not be read.
        response: what `execute` is to return for it.
        is_sent_off: whether the event loop answers it.
    """

    def __init__(self, raw: Any, has_batch: bool) -> None:
        self.started = time.perf_counter()
        self.n_rows = 0
        self.error: Exception | None = None
        self.response: Any = None
        self.is_sent_off = False
        self._raw = raw
        self._sender: Any = None
        self._answered: threading.Event | None = None
        try:
            self.arrival = Arrival(raw, has_batch)
            self.n_rows = self.arrival.n_rows
        except Exception as error:
            self.error = error

    def send_off(self, may_wait: bool) -> None:
        """Let `execute` return without this answer; or, if the request is traced, let it wait for the event loop."""
        if self.arrival.trace and may_wait:  # Triton frees a request's trace when `execute` returns without its answer
            self._answered = threading.Event()
        else:
            self._sender = self._raw.get_response_sender()
        self.is_sent_off = True

    def send_instead(self) -> None:
        """Send what a decoupled model's `execute` cannot return."""
        sender = self._sender or self._raw.get_response_sender()
        sender.send(self.response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def wait_if_traced(self) -> None:
        """Wait until the event loop has answered, if `execute` has to return the answer."""
        if self._answered:
            self._answered.wait()

    async def send(self, response: Any) -> None:
        """Send one of several answers of a decoupled model, on the event loop."""
        # `send` waits until Triton has taken the response: less than two changes of threads would take.
        self._sender.send(response)

    async def end(self, response: Any) -> None:
        """Give the last answer, on the event loop; None if those sent were all."""
        with suppress(asyncio.CancelledError):  # given up just now: the answer goes out all the same
            await self.arrival.close()
        if self._answered:
            self.response = response
            self._answered.set()
        elif response is None:
            self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
