"""The figures about speed. Each holds what was measured and leaves out what was not."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dualpath.compare.report.palette import LIGHT
from dualpath.compare.report.render import Key, Panel, Plot, face, mark
from dualpath.compare.report.wording import clean, factor, joined, known, number, short
from dualpath.compare.result import Cell, Compared, Measured, Result, n_rows
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt

MOST_DISTRIBUTIONS = 6
_WIDE = 20  # values that differ by more are shown on a logarithmic axis
STYLES = ("-", "--", ":", "-.")
IN_DOUBT = Key("grey: no verdict, or the client was the bottleneck; the table says which", doubtful=True)

Lines = dict[str, list[tuple[float, float]]]
Values = Mapping[str, Callable[[Measured], float]]
"""What is drawn, by line style."""


def speed(result: Result) -> list[Plot]:
    """Return the figures for which there is something to show."""
    closed = [cell for cell in result.cells if cell.load.rate is None and cell.measured]
    opened = [cell for cell in result.cells if cell.load.rate is not None and cell.measured]
    compared = [cell for cell in result.cells if cell.compared]
    rate = {"-": attrgetter("rows_per_s")}
    p50_p99, keys = {"-": _percentile(50), "--": _percentile(99)}, (Key("p50"), Key("p99", style="--"))
    caption = "Median and 99th percentile of a request; lower is better."
    at_rate = f"{caption} Counted from the time at which a request was due, so that a stall is not hidden."
    plots = [
        _ratios(result, compared, contenders(result, compared)),
        _over_loads(result, closed, "throughput", "Throughput", "Rows answered per second; higher is better.", rate),
        _over_loads(result, closed, "latency", "Latency", caption, p50_p99, *keys),
        _over_loads(result, opened, "latency-at-rate", "Latency at a given rate of requests", at_rate, p50_p99, *keys),
        _distribution(result),
    ]
    return [plot for plot in plots if plot.panels]


def contenders(result: Result, cells: Sequence[Cell] | None = None) -> list[Key]:
    """Return the keys of the contenders that these cells measured, and that of doubtful figures if there are any."""
    seen = result.contenders if cells is None else {name for cell in cells for name in cell.measured}
    keys = [Key(name, place) for place, name in enumerate(result.contenders) if name in seen]
    in_doubt = any(doubt(cell, *cell.measured) for cell in cells or ())
    return [*keys, *[IN_DOUBT] * in_doubt]


def _ratios(result: Result, cells: Sequence[Cell], keys: Sequence[Key]) -> Plot:
    """Return the figure: a panel for each measure, a line for each cell, all of which have ratios."""
    others = [key for key in keys if any(key.label in cell.compared for cell in cells)]
    height = 74 + len(cells) * max(24, 13 * len(others) + 8)
    measures: list[tuple[str, str, Callable[[Compared], Ratio]]] = [
        ("Throughput", "faster →", lambda c: c.throughput),
        ("Median latency (p50)", "← faster", lambda c: c.p50),
        ("99th percentile (p99)", "← faster", lambda c: c.p99),
    ]
    panels = [_forest(result, others, *measure, cells) for measure in measures if cells]
    who = short(others[0].label) if len(others) == 1 else "Each contender"
    caption = (
        "Turn by turn, with the 95 % interval. A hollow mark: the interval holds 1, so no difference is shown. "
        "Right of 1 is more, left is less."
    )
    title = f"{who} over {_baseline(result)}, load by load"
    keys = [key for key in keys if key.doubtful or (key in others and len(others) > 1)]
    return Plot("ratios", title, caption, panels, keys, (400, height))


def _baseline(result: Result) -> str:
    """Return the baseline's name, short."""
    return short(result.contenders[0]) if result.contenders else "the baseline"


def _forest(
    result: Result,
    others: Sequence[Key],
    title: str,
    better: str,
    of: Callable[[Compared], Ratio],
    cells: Sequence[Cell],
) -> Panel:
    doubts = {
        (y, key.label): doubt(cell, key.label, result.contenders[0]) for y, cell in enumerate(cells) for key in others
    }
    drawn = [
        (y + ((i + 0.5) / len(others) - 0.5) * 0.7, key, of(cell.compared[key.label]), bool(doubts[y, key.label]))
        for y, cell in enumerate(cells)
        for i, key in enumerate(others)
        if key.label in cell.compared and known(of(cell.compared[key.label]))
    ]

    def draw(axes: Axes) -> None:
        axes.axvline(1, color=LIGHT["muted"], linewidth=1)
        for y, key, ratio, doubtful in drawn:
            colour = LIGHT["muted"] if doubtful else key.line["color"]
            axes.plot((ratio.low, ratio.high), (y, y), color=colour, linewidth=1.6)
            axes.plot(ratio.value, y, linestyle="", **key.line, **face(ratio.low <= 1 <= ratio.high, doubtful))
        axes.set_xscale("log")
        ends = [x for _, _, ratio, _ in drawn for x in (ratio.low, ratio.high) if math.isfinite(x) and x > 0]
        low, high = min([0.9, *ends]) / 1.05, max([1.1, *ends]) * 1.05
        axes.set_xlim(low, high)
        ticks = _ticks(low, high)
        axes.set_xticks(ticks, [f"{tick:,.6g}×" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.set_yticks(range(len(cells)), [str(cell.load) for cell in cells])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_title(title)
        axes.set_title(better, loc="right", size=8, weight="normal", color=LIGHT["muted"])

    said = "; ".join(
        f"{short(key.label)} at {cell.load} {' '.join(factor(of(cell.compared[key.label])))}"
        + (f" ({clean(why)})" if (why := doubts[y, key.label]) else "")
        for y, cell in enumerate(cells)
        for key in others
        if key.label in cell.compared
    )
    return Panel(title, f"{title} over {_baseline(result)}: {said}.", draw)


def _ticks(low: float, high: float) -> list[float]:
    """Return up to five round ratios within an interval, 1 among them."""
    steps: list[list[float]] = [
        [i / 20 for i in range(10, 41)],
        [i / 10 for i in range(5, 21)],
        [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 1.8, 2],
        [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4],
        [2.0**i for i in range(-12, 13)],
        [4.0**i for i in range(-6, 7)],
    ]
    for candidates in steps:
        ticks = [tick for tick in candidates if low <= tick <= high]
        covered = ticks[0] / low < 1.5 * (candidates[1] / candidates[0]) and candidates[-1] * 1.6 > high
        if len(ticks) <= 5 and covered:
            return ticks
    return [10.0**i for i in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _over_loads(
    result: Result, cells: Sequence[Cell], name: str, title: str, caption: str, of: Values, *keys: Key
) -> Plot:
    """Return the figure of some values over the loads; `keys` explain their line styles if there are several."""
    unit = "ms" if keys else "rows/s"
    panels = [_curves(result, title, across, points, unit, of) for title, across, points in _families(cells)]
    return Plot(name, title, caption, panels, [*contenders(result, cells), *keys])


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
    result: Result, title: str, across: str, points: Sequence[tuple[float, Cell]], unit: str, values: Values
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
        if across != "requests/s" or xs[-1] / xs[0] > _WIDE:
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
    if sizes and max(sizes) / min(sizes) > _WIDE:
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
