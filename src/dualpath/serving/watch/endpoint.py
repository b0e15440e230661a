"""A small HTTP port that tells the truth about a watched server: for load balancers, Prometheus, `dualpath models`."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dualpath.inference import served
from dualpath.serving import access
from dualpath.serving.watch.watchdog import Watchdog

_TIMEOUT_S = 2.0
"""How long the endpoint may take to say its status."""


@contextmanager
def endpoint(watchdog: Watchdog, address: str, port: int) -> Iterator[None]:
    """Answer while inside the block.

    /live: 200 as long as this process works; a restart of the server does not change it.
    /ready: 200 if both scorers have just made a score, else 503 and the reason.
    /status: both, restarts and last faults, as JSON.
    /metrics: the same for Prometheus.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "dualpath"
        sys_version = ""
        timeout = 5

        def do_GET(self) -> None:
            status, kind, text = _answer(watchdog, self.path)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a load balancer asks every second."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """Say nothing of a client that hung up."""

    with Server((address, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _answer(watchdog: Watchdog, path: str) -> tuple[HTTPStatus, str, str]:
    reason = watchdog.unready()
    if path == "/live":
        return HTTPStatus.OK, "text/plain", "live\n"
    if path == "/ready":
        status = HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "text/plain", f"{reason or 'ready'}\n"
    if path == "/status":
        return HTTPStatus.OK, "application/json", json.dumps(_status(watchdog, reason)) + "\n"
    if path == "/metrics":
        return HTTPStatus.OK, "text/plain; version=0.0.4", "".join(f"{line}\n" for line in _metrics(watchdog, reason))
    return HTTPStatus.NOT_FOUND, "text/plain", "expected /live, /ready, /status or /metrics\n"


def _status(watchdog: Watchdog, reason: str | None) -> dict[str, Any]:
    incidents = watchdog.incidents.copy()
    return {
        "ready": reason is None,
        "reason": reason,
        "restarts": {name: it.restarts for name, it in incidents.items()},
        "last": {name: {"what": it.what, "unix_s": _unix_s(it.at)} for name, it in incidents.items()},
    }


def _metrics(watchdog: Watchdog, reason: str | None) -> Iterator[str]:
    last = {name: watchdog.incidents.get(name) for name in watchdog.names()}
    yield "# HELP dualpath_ready Whether both scorers have just made a score."
    yield "# TYPE dualpath_ready gauge"
    yield f"dualpath_ready {int(reason is None)}"
    yield "# HELP dualpath_restarts_total Replacements of a model, or restarts of the server, by the watchdog."
    yield "# TYPE dualpath_restarts_total counter"
    for name, it in last.items():
        yield f'dualpath_restarts_total{{model="{name}"}} {it.restarts if it else 0}'
    yield "# HELP dualpath_last_fault_timestamp_seconds When a model or the server was last found broken, 0 if never."
    yield "# TYPE dualpath_last_fault_timestamp_seconds gauge"
    for name, it in last.items():
        yield f'dualpath_last_fault_timestamp_seconds{{model="{name}"}} {_unix_s(it.at) if it else 0:.3f}'


def _unix_s(at: float) -> float:
    """Return a time of the monotonic clock as Unix time."""
    return round(time.time() - time.monotonic() + at, 3)


@dataclass(frozen=True)
class Status:
    """What a watchdog says of its server.

    Attributes:
        reason: why it is not ready; None if both scorers have just made a score.
        restarts: by model, or "server".
        faults: the last fault of each, with its time.
    """

    reason: str | None
    restarts: dict[str, int]
    faults: dict[str, str]

    @property
    def line(self) -> str:
        """Say it in one line."""
        mended = (f"{name} restarted {n} x, last {self.faults[name]}" for name, n in sorted(self.restarts.items()))
        return "; ".join([f"watchdog: {self.reason or 'both models score'}", *mended])


def status_of(url: str) -> Status | None:
    """Return what the watchdog of the server at a gRPC address of this machine says; None if there is none."""
    address = access.health_for(url)
    if address is None:
        return None
    with suppress(OSError, ValueError, KeyError):
        said = json.loads(served.read(f"{address}/status", _TIMEOUT_S))
        faults = {
            name: f"{datetime.fromtimestamp(it['unix_s']):%Y-%m-%d %H:%M:%S}: {it['what']}"
            for name, it in said["last"].items()
        }
        return Status(said["reason"], said["restarts"], faults)
    return None
