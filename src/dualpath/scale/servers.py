"""The servers that score the rows of a job: running ones, or one that is started for it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.combine import Scores
from dualpath.scale import node_server
from dualpath.serving import ServerFailed
from dualpath.serving.client import Scorer, connect, open_client

with needs("cli"):
    from tritonclient.utils import InferenceServerException

CALL_TIMEOUT_S = 300.0
REST_S = 2.0
"""How long a server that has failed gets no request: one that is gone fails faster than the others answer."""
REFUSED = "StatusCode.INVALID_ARGUMENT"
"""What says something against the rows. After all else they are tried again: scoring changes nothing on a server."""


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
        self._model = model
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
        # From the first failure: a server that hangs must not use up the time of the others.
        deadline: float | None = None
        while True:
            scorer = self._free.get()
            try:
                scores = scorer.score(excerpts, weights, client_timeout=CALL_TIMEOUT_S)
            except InferenceServerException as error:
                reason = " ".join(str(error.message()).split())
                if error.status() == REFUSED:
                    self._free.put(scorer)
                    raise RowsRefused(reason) from None
                back = threading.Timer(REST_S, self._free.put, (scorer,))
                back.daemon = True
                back.start()
                deadline = deadline or time.monotonic() + self._retry_for_s
                if time.monotonic() > deadline:
                    raise ServersFailed(
                        f"{self._model}: expected scores, got failures for {self._retry_for_s:g} s, the last: {reason}"
                    ) from None
            else:
                self._free.put(scorer)
                return scores


_started: list[subprocess.Popen[str]] = []
"""Whose pipes must stay open."""


def start_server(model_repository: Path) -> str:
    """Start a server on free ports, watched, for as long as this process lives; return its gRPC address.

    Raises:
        ServerFailed: it does not start.
    """
    # Not as a child: Ray kills those of a worker that ends, and Triton would stay behind. A pipe tells it to end.
    command = ["setsid", "--fork", sys.executable, "-m", node_server.__name__, str(model_repository)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _started.append(process)
    assert process.stdout is not None
    line = process.stdout.readline()
    said = json.loads(line) if line else {"error": f"{model_repository}: expected a server, got one that ended at once"}
    if "error" in said:
        raise ServerFailed(said["error"])
    return str(said["url"])


def _check_any(urls: Sequence[str]) -> None:
    failures = []
    for url in urls:
        try:
            connect(url).close()
            return
        except UserError as error:
            failures.append(error)
    raise failures[0]
