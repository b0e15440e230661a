"""How a comparison shows itself, and how it ends: with its figures and its report, also when it is interrupted."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer import Exit

from dualpath.cli import serve
from dualpath.compare import report as reports
from dualpath.compare.report.markdown import markdown
from dualpath.compare.result import Result
from dualpath.errors import UserError

if TYPE_CHECKING:
    from dualpath.serving import TritonServer


class Ending:
    """A command's callbacks for `compare` and `bench`: a progress bar on a terminal, then the result.

    Raises:
        UserError: no report or summary can be written there.
    """

    exit_code = 0

    def __init__(
        self, show: Callable[[Result, Console], None], as_json: bool, report: Path | None, summary: Path | None = None
    ) -> None:
        if report:
            reports.check(report)
        if summary and not summary.absolute().parent.is_dir():
            raise UserError(
                f"--summary: expected a file in a folder that is there, got {str(summary)!r}. Name another."
            )
        self._show, self._as_json, self._report, self._summary = show, as_json, report, summary
        self._console = Console(stderr=True, highlight=False)
        # Drawn between turns only: drawing costs CPU time that the server may want.
        self._progress = Progress(
            *(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()),
            console=self._console,
            transient=True,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=1.0)

    def after(self, measure: Callable[..., Result], **options: Any) -> NoReturn:
        """Call `compare` or `bench`, show what it finds, and end with the exit code that says it."""
        measure(**options, start=self.start, on_progress=self.show_progress, on_result=self.finish)
        raise Exit(self.exit_code)

    def start(self, model_repository: Path, **options: Any) -> AbstractContextManager[TritonServer]:
        """Start a server under a spinner."""
        self._progress.stop()
        return serve.start(model_repository, self._console, **options)

    def show_progress(self, text: str, fraction: float) -> None:
        """Say what comes next."""
        self._progress.start()
        self._progress.update(self._task, description=escape(text), completed=fraction)
        self._progress.refresh()

    def finish(self, result: Result) -> None:
        """Print the result and write its report, whole, whatever the user does meanwhile.

        To be called while the server is up, as stopping it takes seconds, in which an impatient user interrupts again,
        and may fail.
        """
        in_main = threading.current_thread() is threading.main_thread()  # signals are no other thread's
        with serve.handled_by(signal.SIG_IGN, signal.SIGINT) if in_main else nullcontext():
            self._progress.stop()
            self.exit_code = result.exit_code
            result.command = result.command or shlex.join(["dualpath", *sys.argv[1:]])
            if self._as_json:
                print(json.dumps(result.to_dict(), indent=2), flush=True)
            else:
                self._show(result, Console())
            if self._summary:
                with self._summary.open("a", encoding="utf-8") as file:
                    file.write(markdown(result))
            if self._report:
                print(f"Report: {reports.write(result, self._report)}", file=sys.stderr)
