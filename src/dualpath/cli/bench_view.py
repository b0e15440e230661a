"""A bench's result on the terminal: one table over all loads."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualpath.cli.compare_view import in_doubt, short_ratio, show_parity
from dualpath.compare.result import Cell, Result


def show(result: Result, console: Console) -> None:
    """Print how far answers agree, what was not measured and why, the notes, the figures and the verdict."""
    show_parity(result, console)
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
            latencies = (f"{measured.latencies_ms[it]:.1f}" if measured.latencies_ms else "" for it in (50, 99))
            table.add_row(
                rows,
                escape(name),
                f"{measured.rows_per_s:.3g}",
                f"{escape(short_ratio(compared.throughput))}{in_doubt(cell, name, names[0])}" if compared else "",
                *latencies,
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
