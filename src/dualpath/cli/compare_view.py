"""The tables of a comparison, and of a bench, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualpath.compare.result import Cell, Result
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt

NARROW = 16
"""Names up to this length are kept in one line."""
WIDE = 120
"""Columns of a terminal from which on there is room for all figures."""


def show(result: Result, console: Console) -> None:
    """Print a result's tables, its notes and its verdict."""
    show_parity(result, console)
    for cell in result.cells:
        console.print(_cell(cell, result, console.width >= WIDE))
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
    table = Table(title=str(cell.load), title_justify="left", padding=0)
    table.add_column(overflow="fold", no_wrap=max(map(len, result.contenders)) <= NARROW)
    failed = {name: it.n_errors + it.n_timeouts for name, it in cell.measured.items()}
    columns = {
        "rows/s": True,
        "ratio": True,
        "p50 ms": True,
        "p90 ms": wide,
        "p99 ms": True,
        "p50 ratio": True,
        "p99 ratio": wide,
        "failed": wide or any(failed.values()),
    }
    for header, is_shown in columns.items():
        if is_shown:
            is_ratio = "ratio" in header  # below which a doubt may stand
            width = len("0.968 [0.929, 1.01]") if is_ratio else None
            table.add_column(header, justify="right", overflow="fold", no_wrap=not is_ratio, min_width=width)
    for name in result.contenders:
        if name in cell.not_measured:
            table.add_row(escape(name), "–")
        elif name in cell.measured:
            measured = cell.measured[name]
            ratios = _ratios(cell, name, result.contenders[0])
            latencies = [_ms(measured.latencies_ms, percentile) for percentile in (50, 90, 99)]
            cells = [f"{measured.rows_per_s:.4g}", ratios[0], *latencies, *ratios[1:], str(failed[name])]
            shown = (it for it, is_shown in zip(cells, columns.values(), strict=True) if is_shown)
            table.add_row(escape(name), *shown)
            for group, of_group in measured.groups_ms.items():
                latencies = [_ms(of_group, percentile) for percentile in (50, 90, 99) if wide or percentile != 90]
                table.add_row(f"  BERT_WEIGHT {escape(group)}", "", "", *latencies, style="dim")
    return table


def _ratios(cell: Cell, name: str, baseline: str) -> list[str]:
    """Return the ratios of throughput, p50 and p99 as markup."""
    if (compared := cell.compared.get(name)) is None:
        return [""] * 3
    decisive = compared.throughput if cell.load.rate is None else compared.p50
    return [
        escape(short_ratio(ratio)) + (in_doubt(cell, name, baseline) if ratio is decisive else "")
        for ratio in (compared.throughput, compared.p50, compared.p99)
    ]


def short_ratio(ratio: Ratio) -> str:
    """Return such as "0.98 [0.95, 1.01]"; of too few turns there is no interval."""
    interval = f" [{ratio.low:.3g}, {ratio.high:.3g}]" if isfinite(ratio.high) else ""
    return f"{ratio.value:.3g}{interval}"


def in_doubt(cell: Cell, name: str, baseline: str) -> str:
    """Return what stands under the ratio that a verdict goes by if it is not to be taken as it stands, as markup."""
    why = doubt(cell, name, baseline)
    return f"\n[yellow]{escape(why)}[/]" if why else ""


def _ms(latencies_ms: Mapping[float, float], percentile: int) -> str:
    return f"{latencies_ms[percentile]:.1f}" if latencies_ms else ""


def show_bench(result: Result, console: Console) -> None:
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
