"""Try a request again that a server could not take: to score is safe to repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from dualpath.extras import needs

with needs("cli"):
    from tritonclient.utils import InferenceServerException

T = TypeVar("T")

RETRIED = ("StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.RESOURCE_EXHAUSTED")
"""What a server says while it restarts, while a model is loaded, and when it has too much to do."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0


def retrying(
    call: Callable[[], T],
    for_s: float,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what the call returns, tried again after longer and longer delays while the server cannot take it.

    Args:
        call: safe to repeat.
        for_s: how long to go on; 0 tries once.
        report: gets a line before the first delay.
    Raises:
        InferenceServerException: another failure, or the last one after `for_s`.
    """
    deadline, delay_s = clock() + for_s, FIRST_DELAY_S
    while True:
        try:
            return call()
        except InferenceServerException as error:
            if error.status() not in RETRIED or clock() + delay_s > deadline:
                raise
            if delay_s == FIRST_DELAY_S:
                reason = " ".join(str(error.message()).split()).rstrip(".")
                report(f"{reason}. Trying again for {for_s:g} s.")
        sleep(delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)
