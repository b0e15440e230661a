"""Ask a watched server's health endpoint what has been mended."""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dualpath.serving import access

TIMEOUT_S = 2.0


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
    endpoint = access.health_for(url)
    if endpoint is None:
        return None
    with suppress(OSError, ValueError, KeyError):
        with urllib.request.urlopen(f"{endpoint}/status", timeout=TIMEOUT_S) as answer:
            said: dict[str, Any] = json.load(answer)
        faults = {
            name: f"{datetime.fromtimestamp(it['unix_s']):%Y-%m-%d %H:%M:%S}: {it['what']}"
            for name, it in said["last"].items()
        }
        return Status(said["reason"], said["restarts"], faults)
    return None
