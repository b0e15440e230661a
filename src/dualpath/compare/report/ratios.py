"""Every ratio with its interval: the answer, load by load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dualpath.compare.report.palette import LIGHT
from dualpath.compare.report.render import Key, Panel, Plot, face
from dualpath.compare.report.wording import clean, factor, known, short
from dualpath.compare.result import Cell, Compared, Result
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt


def ratios(result: Result, cells: Sequence[Cell], keys: Sequence[Key]) -> Plot:
    """Return the figure: a panel for each measure, a line for each cell, all of which have ratios.

    Args:
        keys: of the cells' contenders, and of doubtful figures if there are any.
    """
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
