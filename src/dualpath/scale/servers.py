"""The servers that score the rows of a job: running ones, or one that is started for it."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.combine import Scores
from dualpath.serving import ServerFailed, TritonServer
from dualpath.serving.client import Scorer, connect, open_client
from dualpath.serving.watch import HEALTH_PORT, watched

with needs("cli"):
    from tritonclient.utils import InferenceServerException

CALL_TIMEOUT_S = 300.0
REST_S = 2.0
"""How long a server that has failed gets no request: one that is gone fails faster than the others answer."""
REFUSED = ("StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED", "StatusCode.UNAUTHENTICATED")
"""What says something against the request. After all else it is tried again: scoring changes nothing on a server."""


class RowsRefused(Exception):
    """A server does not take a request; another one would not either. The message is the server's."""


class ServersFailed(Exception):
    """No server has answered a request for as long as it was tried. The message is the last one's."""


class Servers:
    """Some servers of one model, which share the requests and stand in for each other. Safe to use from threads.

    Args:
        urls: gRPC addresses.
        retry_for_s: how long to try a request again.
        in_flight: how many requests are under way at the same time, on all servers together.
    Raises:
        UserError: nothing answers at any of the addresses.
    """

    def __init__(self, urls: Sequence[str], model: str, retry_for_s: float, in_flight: int) -> None:
        self.in_flight = in_flight
        self._retry_for_s = retry_for_s
        self._free: queue.SimpleQueue[Scorer] = queue.SimpleQueue()
        _check_any(urls)
        for i in range(max(in_flight, len(urls))):
            self._free.put(Scorer(open_client(urls[i % len(urls)]), model))

    def score(self, excerpts: Sequence[bytes], weights: Scores) -> Scores:
        """Score UTF-8 excerpts in one request: float32 [rows].

        Raises:
            RowsRefused: the request is wrong.
            ServersFailed: no server has answered.
        """
        deadline = time.monotonic() + self._retry_for_s
        while True:
            scorer = self._free.get()
            try:
                scores = scorer.score(excerpts, weights, client_timeout=CALL_TIMEOUT_S)
            except InferenceServerException as error:
                reason = " ".join(str(error.message()).split())
                if error.status() in REFUSED:
                    self._free.put(scorer)
                    raise RowsRefused(reason) from None
                back = threading.Timer(REST_S, self._free.put, (scorer,))
                back.daemon = True
                back.start()
                if time.monotonic() > deadline:
                    raise ServersFailed(reason) from None
            else:
                self._free.put(scorer)
                return scores


def start_server(model_repository: Path) -> str:
    """Start a server on free ports, watched, for as long as this process lives; return its gRPC address.

    Raises:
        UserError, ServerFailed: it does not start.
    """
    server = TritonServer(model_repository, http_port=0, grpc_port=0, metrics_port=0, more_ports={HEALTH_PORT: 0})
    server.start()
    ended = threading.Event()

    def watch() -> None:
        # If the server cannot be restarted, the requests say so.
        with suppress(ServerFailed, UserError), watched(server, lambda line: None) as (watchdog, _):
            while not ended.wait(0.25):
                watchdog.step()

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()
        server.stop()

    atexit.register(stop)
    return server.grpc_url


def _check_any(urls: Sequence[str]) -> None:
    failures = []
    for url in urls:
        try:
            connect(url).close()
            return
        except UserError as error:
            failures.append(error)
    raise failures[0]
