"""One traced request of each contender, step by step, all on one time axis."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dualpath.compare.report.palette import LIGHT, series
from dualpath.compare.report.render import Panel, Plot
from dualpath.compare.report.wording import number, short
from dualpath.compare.result import Result, Span

ROW = 21  # CSS pixels
LABELS = 150  # points for the names, left of the axis
MOST_SPANS = 40  # of a contender


def timeline(result: Result) -> Plot | None:
    """Return the figure, or None if no request was traced."""
    rows = list(_rows(result))
    if not rows:
        return None
    by = {name: [row for row in rows if row and row.contender == name] for name in result.contenders}
    said = ". ".join(
        f"{short(name)}: "
        + "; ".join(f"{short(s.name)} from {number(s.start_ms)} to {number(s.end_ms)}" for s in spans)
        for name, spans in by.items()
        if spans
    )
    caption = (
        "One traced request of each contender, in ms from its begin, on one axis; a step lies under what called it."
    )
    cut = [short(name) for name in by if sum(s.contender == name for s in result.timelines) > MOST_SPANS]
    if cut:
        caption += f" Of {', '.join(cut)} the first {MOST_SPANS} steps."
    panel = Panel("Timelines", f"Timelines in ms. {said}.", lambda axes: _draw(axes, result, rows))
    return Plot("timeline", "One request, step by step", caption, [panel], [], (1040, 62 + ROW * len(rows)))


def _rows(result: Result) -> Sequence[Span | None]:
    """Return a row for each span, in the order in which they came, and an empty one between contenders."""
    rows: list[Span | None] = []
    for name in result.contenders:
        spans = [span for span in result.timelines if span.contender == name]
        if rows and spans:
            rows.append(None)
        rows += spans[:MOST_SPANS]
    return rows


def _draw(axes: Axes, result: Result, rows: Sequence[Span | None]) -> None:
    end = max(span.end_ms for span in rows if span)
    for y, span in enumerate(rows):
        if span is None:
            continue
        place = result.contenders.index(span.contender)
        outline: dict[str, Any] = {"facecolor": "none"} if span.depth == 0 else {"facecolor": series(place)}
        bars = axes.barh(
            y, span.end_ms - span.start_ms, 0.55, span.start_ms, edgecolor=series(place), linewidth=0.9, **outline
        )
        bars.patches[0].set_gid(f"bar-{y}")
        weight = "bold" if span.depth == 0 else "normal"
        label = short(span.contender) if span.depth == 0 else short(span.name, 30)
        for text, x, offset, side in (
            (label, 0, 10 * min(span.depth, 4) - LABELS, "left"),
            (f"{span.end_ms - span.start_ms:,.2f} ms", 1, 58, "right"),
        ):
            axes.annotate(
                text,
                (x, y),
                (offset, 0),
                axes.get_yaxis_transform(),
                "offset points",
                ha=side,
                va="center",
                weight=weight,
            )
    axes.set_xlim(0, end)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ms from the request's begin")
    axes.set_facecolor("none")
    axes.tick_params(axis="x", color=LIGHT["rule"])
