"""How a comparison or a bench shows itself, and how it ends: with its figures, also when it is interrupted."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer import Exit

from dualpath.cli import serve
from dualpath.compare import report as reports
from dualpath.compare.report.markdown import markdown
from dualpath.compare.result import Cell, Result
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt
from dualpath.errors import UserError

if TYPE_CHECKING:
    from dualpath.serving import TritonServer

NARROW = 16
"""Names up to this length are kept in one line."""
HEADS = ("rows/s", "ratio", "p50 ms", "p90 ms", "p99 ms", "p50 ratio", "p99 ratio", "failed")
_WIDE = 120
"""Columns of a terminal from which on there is room for all figures."""


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


def show(result: Result, console: Console) -> None:
    """Print a result's tables, its notes and its verdict."""
    _show_parity(result, console)
    for cell in result.cells:
        console.print(_cell(cell, result, console.width >= _WIDE))
        absent = (f"{name} was not measured: {reason}." for name, reason in cell.not_measured.items())
        for note in (*absent, *cell.notes):
            console.print(f"  {note}", markup=False, highlight=False)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    console.print(result.verdict, markup=False, highlight=False, style="bold")


def _show_parity(result: Result, console: Console) -> None:
    """Print whose answers were compared with whose, how far they agree, and the rows that differ most."""
    if result.parity:
        console.print(_parity(result))
    for parity in result.parity:
        of = f"{parity.output} of {parity.other}" if len(result.contenders) > 2 else parity.output
        for row in parity.worst:
            console.print(f"  {of}: {row}", markup=False, highlight=False)


def _parity(result: Result) -> Table:
    table = Table(title="Do they agree?", title_justify="left", padding=0)
    several = len(result.contenders) > 2 or any(it.baseline != result.contenders[0] for it in result.parity)
    for header in ("contender", "with")[: 2 if several else 0]:
        table.add_column(header, overflow="fold")
    table.add_column("output", overflow="fold")
    for header in ("rows", "answers", "bitwise", "largest", "mean", "tolerance"):
        table.add_column(header, justify="right", no_wrap=header != "tolerance")
    for parity in result.parity:
        table.add_row(
            *(escape(text) for text in ((parity.other, parity.baseline) if several else ())),
            escape(parity.output),
            str(parity.n_rows),
            str(parity.n_answers),
            str(parity.n_equal),
            f"{parity.largest:.2g}",
            f"{parity.mean:.2g}",
            parity.tolerance,
            style="" if parity.ok else "red",
        )
    return table


def _cell(cell: Cell, result: Result, wide: bool) -> Table:
    """Return the figures under a load; a narrow terminal has no room for p90, p99's ratio and a column of zeros."""
    failed = {name: it.n_errors + it.n_timeouts for name, it in cell.measured.items()}
    if_wide = {"p90 ms", "p99 ratio"} if any(failed.values()) else {"p90 ms", "p99 ratio", "failed"}
    headers = [header for header in HEADS if wide or header not in if_wide]
    table = Table(title=str(cell.load), title_justify="left", padding=0)
    table.add_column(overflow="fold", no_wrap=max(map(len, result.contenders)) <= NARROW)
    for header in headers:
        is_ratio = "ratio" in header  # below which a doubt may stand
        width = len("0.968 [0.929, 1.01]") if is_ratio else None
        table.add_column(header, justify="right", overflow="fold", no_wrap=not is_ratio, min_width=width)
    for name in result.contenders:
        if name in cell.not_measured:
            table.add_row(escape(name), "–")
        elif measured := cell.measured.get(name):
            figures = {"rows/s": f"{measured.rows_per_s:.4g}", "failed": str(failed[name])}
            figures |= _latencies(measured.latencies_ms) | _ratios(cell, name, result.contenders[0])
            table.add_row(escape(name), *(figures.get(header, "") for header in headers))
            for group, latencies_ms in measured.groups_ms.items():
                figures = _latencies(latencies_ms)
                of_group = (figures.get(header, "") for header in headers)
                table.add_row(f"  BERT_WEIGHT {escape(group)}", *of_group, style="dim")
    return table


def _latencies(latencies_ms: Mapping[float, float]) -> dict[str, str]:
    return {f"p{percentile} ms": f"{latencies_ms[percentile]:.1f}" for percentile in (50, 90, 99) if latencies_ms}


def _ratios(cell: Cell, name: str, baseline: str) -> dict[str, str]:
    """Return the ratios of throughput, p50 and p99 as markup."""
    if (compared := cell.compared.get(name)) is None:
        return {}
    decisive = "ratio" if cell.load.rate is None else "p50 ratio"
    ratios = {"ratio": compared.throughput, "p50 ratio": compared.p50, "p99 ratio": compared.p99}
    shown = {header: escape(_short_ratio(ratio)) for header, ratio in ratios.items()}
    return shown | {decisive: shown[decisive] + _in_doubt(cell, name, baseline)}


def _short_ratio(ratio: Ratio) -> str:
    """Return such as "0.98 [0.95, 1.01]"; of too few turns there is no interval."""
    interval = f" [{ratio.low:.3g}, {ratio.high:.3g}]" if isfinite(ratio.high) else ""
    return f"{ratio.value:.3g}{interval}"


def _in_doubt(cell: Cell, name: str, baseline: str) -> str:
    """Return what stands under the ratio that a verdict goes by if it is not to be taken as it stands, as markup."""
    why = doubt(cell, name, baseline)
    return f"\n[yellow]{escape(why)}[/]" if why else ""


def show_bench(result: Result, console: Console) -> None:
    """Print how far answers agree, what was not measured and why, the notes, the figures and the verdict."""
    _show_parity(result, console)
    said = [f"{cell.load}: {note}" for cell in result.cells for note in cell.notes]
    for text in [*said, *_not_measured(result), *result.notes]:
        console.print(text, markup=False, highlight=False)
    table = Table(
        "rows", "set-up", title=escape(result.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for header in ("rows/s", "ratio [95 %]", "p50 ms", "p99 ms"):
        table.add_column(header, justify="right")
    several = {cell.load.concurrency for cell in result.cells} != {1}
    for cell in result.cells:
        clients = f", {cell.load.concurrency} clients" if several else ""
        _add(table, cell, f"{cell.load.batch}{clients}", result.contenders)
    console.print(table)
    console.print(result.verdict, markup=False, highlight=False, style="bold")


def _add(table: Table, cell: Cell, rows: str, names: list[str]) -> None:
    for name in names:
        if measured := cell.measured.get(name):
            compared = cell.compared.get(name)
            latencies = _latencies(measured.latencies_ms)
            table.add_row(
                rows,
                escape(name),
                f"{measured.rows_per_s:.3g}",
                f"{escape(_short_ratio(compared.throughput))}{_in_doubt(cell, name, names[0])}" if compared else "",
                latencies.get("p50 ms", ""),
                latencies.get("p99 ms", ""),
            )
            rows = ""
    table.add_section()


def _not_measured(result: Result) -> list[str]:
    """Say what was left out: in one line if the reason is the same under all loads."""
    said: list[str] = []
    for name in result.contenders:
        reasons = [(cell.load, cell.not_measured[name]) for cell in result.cells if name in cell.not_measured]
        if len(reasons) == len(result.cells) and len({reason for _, reason in reasons}) == 1:
            said.append(f"{name}: not measured: {reasons[0][1]}")
        else:
            said += [f"{name}, {load}: not measured: {reason}" for load, reason in reasons]
    return said
