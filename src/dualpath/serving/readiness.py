"""Wait until a Triton that was started has loaded its models and listens."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from dualpath.serving import log
from dualpath.serving.triton_process import StartFailed, TritonProcess

POLL_S = 0.1

_LOADED = re.compile(r"successfully loaded '([^']+)'")
_LISTENING = ("Started GRPCInferenceService", "Started HTTPService", "Started Metrics Service")


@dataclass(frozen=True)
class StartProgress:
    """How far a start is.

    Attributes:
        ready, waiting: names of the models that are loaded, and of those that are not.
        held_up: what has to end first; "" if nothing has.
    """

    ready: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    held_up: str = ""


def await_ready(
    process: TritonProcess,
    names: list[str],
    http_url: str,
    timeout_s: float,
    on_progress: Callable[[StartProgress], None],
) -> None:
    """Return when these models are loaded and Triton answers.

    Raises:
        StartFailed: a model did not load, Triton ended, or it takes longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    loaded: set[str] = set()
    listening: set[str] = set()
    while True:
        records = process.read_log()
        if records and (failure := log.load_failure(process.records)):
            raise process.failure(StartFailed, str(failure))
        for record in records:
            if match := _LOADED.match(record.message):
                loaded.add(match[1])
            listening.update(service for service in _LISTENING if record.message.startswith(service))
        waiting = tuple(name for name in names if name not in loaded)
        on_progress(StartProgress(tuple(sorted(loaded)), waiting))
        process.check_alive(StartFailed, ready=False)
        # Its own log first: whoever else listens on the port would answer too.
        if len(listening) == len(_LISTENING) and _answers(http_url):
            return
        if time.monotonic() > deadline:
            what = f"{', '.join(waiting)} still loading" if waiting else "no answer"
            raise process.failure(StartFailed, f"Triton is not ready after {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)


def _answers(http_url: str) -> bool:
    with suppress(OSError, http.client.HTTPException), closing(http.client.HTTPConnection(http_url, timeout=5)) as it:
        it.request("GET", "/v2/health/ready")
        return it.getresponse().status == 200
    return False
