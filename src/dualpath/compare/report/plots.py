"""The figures about speed. Each holds what was measured and leaves out what was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dualpath.compare.report.ratios import ratios
from dualpath.compare.report.render import Key, Panel, Plot, face, mark
from dualpath.compare.report.wording import clean, joined, number, short
from dualpath.compare.result import Cell, Measured, Result, n_rows
from dualpath.compare.verdict import doubt

MOST_DISTRIBUTIONS = 6
WIDE = 20  # values that differ by more are shown on a logarithmic axis
STYLES = ("-", "--", ":", "-.")
IN_DOUBT = Key("grey: no verdict, or the client was the bottleneck; the table says which", doubtful=True)

Lines = dict[str, list[tuple[float, float]]]


def speed(result: Result) -> list[Plot]:
    """Return the figures for which there is something to show."""
    closed = [cell for cell in result.cells if cell.load.rate is None and cell.measured]
    opened = [cell for cell in result.cells if cell.load.rate is not None and cell.measured]
    compared = [cell for cell in result.cells if cell.compared]
    plots = [
        ratios(result, compared, contenders(result, compared)),
        _throughput(result, closed),
        _latency(result, closed, "latency", "Latency"),
        _latency(result, opened, "latency-at-rate", "Latency at a given rate of requests"),
        _distribution(result),
    ]
    return [plot for plot in plots if plot.panels]


def contenders(result: Result, cells: Sequence[Cell] | None = None) -> list[Key]:
    """Return the keys of the contenders that these cells measured, and that of doubtful figures if there are any."""
    seen = result.contenders if cells is None else {name for cell in cells for name in cell.measured}
    keys = [Key(name, place) for place, name in enumerate(result.contenders) if name in seen]
    in_doubt = any(doubt(cell, *cell.measured) for cell in cells or ())
    return [*keys, *[IN_DOUBT] * in_doubt]


def _throughput(result: Result, cells: Sequence[Cell]) -> Plot:
    of = {"-": attrgetter("rows_per_s")}
    panels = [_curves(result, title, across, points, "rows/s", of) for title, across, points in _families(cells)]
    return Plot(
        "throughput", "Throughput", "Rows answered per second; higher is better.", panels, contenders(result, cells)
    )


def _latency(result: Result, cells: Sequence[Cell], name: str, title: str) -> Plot:
    of = {"-": _percentile(50), "--": _percentile(99)}
    panels = [_curves(result, title, across, points, "ms", of) for title, across, points in _families(cells)]
    caption = "Median and 99th percentile of a request; lower is better."
    if cells and cells[0].load.rate is not None:
        caption += " Counted from the time at which a request was due, so that a stall is not hidden."
    return Plot(name, title, caption, panels, [*contenders(result, cells), Key("p50"), Key("p99", style="--")])


def _percentile(p: float) -> Callable[[Measured], float]:
    return lambda measured: measured.latencies_ms.get(p, math.nan)


def _families(cells: Sequence[Cell]) -> Iterator[tuple[str, str, list[tuple[float, Cell]]]]:
    """Yield panels of cells that differ in one thing alone: the rate, or what takes more values of clients and rows."""
    clients, batches = {cell.load.concurrency for cell in cells}, {cell.load.batch for cell in cells}
    by_batch = None in clients or len(clients) >= len(batches)
    across = "requests/s" if None in clients else "clients" if by_batch else "rows per request"
    families: dict[str, list[tuple[float, Cell]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.load.batch, cell.load.concurrency or 0, cell.load.rate or 0)):
        title = f"{n_rows(cell.load.batch)} per request" if by_batch else cell.load.senders
        x = (cell.load.rate or cell.load.concurrency or 0) if by_batch else cell.load.batch
        families.setdefault(title, []).append((x, cell))
    for title, points in families.items():
        yield title, across, points


def _curves(
    result: Result,
    title: str,
    across: str,
    points: Sequence[tuple[float, Cell]],
    unit: str,
    values: Mapping[str, Callable[[Measured], float]],
) -> Panel:
    def lines(of: Callable[[Measured], float]) -> Lines:
        named = {
            name: [(x, of(cell.measured[name])) for x, cell in points if name in cell.measured]
            for name in result.contenders
        }
        return {name: line for name, line in named.items() if line}

    drawn = {style: lines(of) for style, of in values.items()}
    doubts = {(name, x): why for x, cell in points for name in cell.measured if (why := doubt(cell, name))}

    def draw(axes: Axes) -> None:
        for style, of in drawn.items():
            for name, line in of.items():
                look, hollow = {"clip_on": False, **mark(result.contenders.index(name))}, style != "-"
                axes.plot(*zip(*line, strict=True), linestyle=style, **look, **face(hollow))
                for x, y in line:
                    if (name, x) in doubts:
                        axes.plot(x, y, zorder=3, linestyle="", **look, **face(hollow, doubtful=True))
        xs = sorted({x for x, _ in points})
        if across != "requests/s" or xs[-1] / xs[0] > WIDE:
            axes.set_xscale("log", base=2)
        if len(xs) == 1:
            axes.set_xlim(xs[0] / 2, xs[0] * 2)
        axes.set_xticks(xs, [f"{x:,.6g}" for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(across)
        axes.set_title(title)
        _scale(axes, [y for of in drawn.values() for line in of.values() for _, y in line], unit)

    first = next(iter(drawn.values()))
    said = "; ".join(
        f"{short(name)} " + joined([f"{number(y)} at {x:,.6g}" for x, y in line]) for name, line in first.items()
    )
    warned = [f" {short(name)} at {x:,.6g}: {clean(why)}." for (name, x), why in doubts.items()]
    return Panel(title, f"{title}: {unit} by {across}. {said}.{''.join(warned)}", draw)


def _scale(axes: Axes, ys: Sequence[float], unit: str) -> None:
    """Count from 0, or by powers if the values are far apart."""
    sizes = [y for y in ys if math.isfinite(y) and y > 0]
    if sizes and max(sizes) / min(sizes) > WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) / min(sizes) < 500 else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, max(sizes, default=1) * 1.08)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    axes.set_ylabel(unit)


def _distribution(result: Result) -> Plot:
    """Percentiles on an axis that gives each further nine the same room, as HdrHistogram draws them."""
    cells = [cell for cell in result.cells if any(m.latencies_ms for m in cell.measured.values())]
    picked = sorted({round(i) for i in np.linspace(0, len(cells) - 1, min(len(cells), MOST_DISTRIBUTIONS))})
    shown = [cells[i] for i in picked]
    groups = sorted({group for cell in shown for m in cell.measured.values() for group in m.groups_ms})
    caption = "Latency by percentile, each further nine with the same room; lower and flatter is better."
    if len(shown) < len(cells):
        caption += f" {len(shown)} of {len(cells)} loads, spread over the run."
    keys = [Key(f"BERT_WEIGHT {group}", style=STYLES[i % 4]) for i, group in enumerate(groups)]
    panels = [_percentiles(result, cell, groups) for cell in shown]
    return Plot("distribution", "Latency distribution", caption, panels, [*contenders(result, shown), *keys])


def _percentiles(result: Result, cell: Cell, groups: Sequence[str]) -> Panel:
    def draw(axes: Axes) -> None:
        tail = max(_tail(m) for m in cell.measured.values())
        last = _nines(tail) + 0.45
        ys = []
        for place, name in enumerate(result.contenders):
            if (measured := cell.measured.get(name)) is None:
                continue
            split = {STYLES[groups.index(group) % 4]: ms for group, ms in measured.groups_ms.items()}
            for style, latencies in (split or {"-": measured.latencies_ms}).items():
                line = [(_nines(p), ms) for p, ms in sorted(latencies.items()) if p <= _tail(measured)]
                line += [(last, latencies[100])] if 100 in latencies else []
                at = [i for i, (x, _) in enumerate(line) if x == last or x in (_nines(50), _nines(90), _nines(99))]
                look = {"linestyle": style, **mark(place), **face(doubtful=bool(doubt(cell, name)))}
                if line:
                    axes.plot(*zip(*line, strict=True), markevery=at, clip_on=False, **look)
                ys += [y for _, y in line]
        ticks = [p for p in (50, 90, 99, 99.9) if p <= tail]
        axes.set_xticks([0, *map(_nines, ticks), last], ["0", *(f"{p:g}" for p in ticks), "max"])
        axes.set_xlim(0, last)
        axes.set_title(str(cell.load))
        axes.set_xlabel("percentile")
        _scale(axes, ys, "ms")

    said = "; ".join(
        f"{short(name)} " + joined([f"p{p:g} {number(m.latencies_ms[p])}" for p in (50, 90, 99) if p in m.latencies_ms])
        for name, m in cell.measured.items()
    )
    return Panel(str(cell.load), f"{cell.load}: latency in ms by percentile. {said}.", draw)


def _tail(measured: Measured) -> float:
    """Return the highest percentile that at least one request lies beyond."""
    answered = measured.n_requests - measured.n_errors - measured.n_timeouts
    return max((p for p in (50, 90, 99, 99.9) if answered * (100 - p) >= 100), default=50)


def _nines(percentile: float) -> float:
    return -math.log10(1 - percentile / 100)
