"""How a comparison ends: with its figures and its report, also when it is interrupted."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dualpath.compare import report as reports
from dualpath.compare.result import Result

if TYPE_CHECKING:
    from rich.console import Console


class Runnable(Protocol):
    """What runs into its result, on Ctrl-C too."""

    result: Result

    def run(self, console: Console) -> None:
        """Run; raise KeyboardInterrupt on Ctrl-C."""


def run_to_end(
    subject: Runnable, console: Console, show: Callable[[Result, Console], None], as_json: bool, report: Path | None
) -> int:
    """Run, print the result and write its report; return the exit code.

    To be called while the server is up, as stopping it takes seconds, in which an impatient user interrupts again, and
    may fail. Ctrl-C ends the run only: what was found is printed and written whole.
    """
    from rich.console import Console

    exit_code = 0
    try:
        subject.run(console)
    except KeyboardInterrupt:
        exit_code = 130
    result = subject.result
    with _uninterrupted():
        print(json.dumps(result.as_json(), indent=2), flush=True) if as_json else show(result, Console())
        if report:
            print(f"Report: {reports.write(result, report)}", file=sys.stderr)
    return exit_code or int(result.failed)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
