"""A comparison's tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualpath.compare.result import Cell, Measured, Result
from dualpath.compare.verdict import doubt

NARROW = 16
"""Names up to this length are kept in one line; then ratios are what gives way on a narrow terminal."""


def show(result: Result, console: Console) -> None:
    """Print a result's tables, its notes and its verdict."""
    show_parity(result, console)
    for cell in result.cells:
        console.print(_cell(cell, result))
        absent = (f"{name} was not measured: {reason}." for name, reason in cell.not_measured.items())
        for note in (*absent, *cell.notes):
            console.print(f"  {note}", markup=False, highlight=False)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    console.print(result.verdict, markup=False, highlight=False, style="bold")


def show_parity(result: Result, console: Console) -> None:
    """Print whose answers were compared with whose, how far they agree, and the rows that differ most."""
    if result.parity:
        console.print(_parity(result))
        for line in _worst(result):
            console.print(f"  {line}", markup=False, highlight=False)


def _parity(result: Result) -> Table:
    table = Table(title="Do they agree?", title_justify="left", padding=0)
    for header in ("contender", "compared with", "output"):
        table.add_column(header, overflow="fold")
    for header in ("rows", "bitwise\nequal", "largest\ndifference", "mean", "tolerance"):
        table.add_column(header, justify="right", overflow="fold")
    for parity in result.parity:
        table.add_row(
            *(escape(text) for text in (parity.other, parity.baseline, parity.output)),
            str(parity.n_rows),
            str(parity.n_equal),
            f"{parity.largest:.2g}",
            f"{parity.mean:.2g}",
            f"{parity.atol:g}",
            style="" if parity.ok else "red",
        )
    return table


def _worst(result: Result) -> Iterator[str]:
    """Yield a line for each of the rows on which they disagree most, the worst of each output first."""
    for parity in result.parity:
        of = f"{parity.output} of {parity.other}" if len(result.contenders) > 2 else parity.output
        for row in parity.worst:
            yield f"{of}: {row.where}: {row.baseline} and {row.other} ({row.difference:.2g} apart)"


def _cell(cell: Cell, result: Result) -> Table:
    table = Table(title=str(cell.load), title_justify="left", padding=0)
    table.add_column(overflow="fold", no_wrap=max(map(len, result.contenders)) <= NARROW)
    for header in (
        "rows/s",
        "ratio [95 %]",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p50 ratio",
        "p99 ratio",
        "failed",
    ):
        table.add_column(header, justify="right", overflow="fold", no_wrap="ratio" not in header)
    for name in result.contenders:
        if name in cell.not_measured:
            table.add_row(escape(name), "–")
        elif name in cell.measured:
            measured = cell.measured[name]
            throughput, p50, p99 = _ratios(cell, name, result.contenders[0])
            table.add_row(
                escape(name),
                f"{measured.rows_per_s:.4g}",
                throughput,
                *(_ms(measured, percentile) for percentile in (50, 90, 99)),
                p50,
                p99,
                str(measured.n_errors + measured.n_timeouts),
            )
            for group, latencies in measured.groups_ms.items():
                shown = (f"{latencies[it]:.1f}" if latencies else "" for it in (50, 90, 99))
                table.add_row(f"  BERT_WEIGHT {escape(group)}", "", "", *shown, style="dim")
    return table


def _ratios(cell: Cell, name: str, baseline: str) -> list[str]:
    """Return the ratios of throughput, p50 and p99 as markup."""
    if (compared := cell.compared.get(name)) is None:
        return [""] * 3
    decisive = compared.throughput if cell.load.rate is None else compared.p50
    return [
        escape(str(ratio)) + (in_doubt(cell, name, baseline) if ratio is decisive else "")
        for ratio in (compared.throughput, compared.p50, compared.p99)
    ]


def in_doubt(cell: Cell, name: str, baseline: str) -> str:
    """Return what stands under the ratio that a verdict goes by if it is not to be taken as it stands, as markup."""
    why = doubt(cell, name, baseline)
    return f"\n[yellow]{escape(why)}[/]" if why else ""


def _ms(measured: Measured, percentile: int) -> str:
    return f"{measured.latencies_ms[percentile]:.1f}" if measured.latencies_ms else ""
