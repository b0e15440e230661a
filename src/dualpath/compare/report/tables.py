"""What the page's tables hold beside a result's own figures: numbers rounded so that a column's points align."""

import math
from typing import Any

from dualpath.compare.report.wording import NOTHING, digits, factor, fixed, joined, known
from dualpath.compare.result import Cell, Measured, Parity, Result, Step, WorstRow
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt

SHOWN = (50, 90, 99)  # percentiles of latency
Cells = list[list[Any]]


def summary(result: Result) -> list[dict[str, Any]]:
    """Return a row for each contender: whether its scores agree, and how fast it is if a verdict is allowed."""
    rows = []
    for name in result.contenders:
        void = {name, result.contenders[0]}
        cells = [cell for cell in result.cells if name in cell.compared and not void & cell.no_verdict.keys()]
        measured = [cell.measured[name] for cell in result.cells if name in cell.measured]
        rows.append(
            {
                "name": name,
                "agreement": _agreement([it for it in result.parity if it.other == name and (it.n_rows or not it.ok)]),
                "ratios": [
                    _range([cell.compared[name].throughput for cell in cells if cell.load.rate is None]),
                    *(_range([getattr(cell.compared[name], of) for cell in cells]) for of in ("p50", "p99")),
                ],
                "n_requests": sum(m.n_requests for m in measured) if measured else NOTHING,
                "n_failed": sum(m.n_failed for m in measured) if measured else NOTHING,
            }
        )
    return rows


def _agreement(parities: list[Parity]) -> tuple[str, str]:
    """Return whether a contender's answers agree, as a word for the page and in words."""
    if not parities:
        return "", NOTHING
    if wrong := [parity.output for parity in parities if not parity.ok]:
        return "bad", f"{joined(wrong)} beyond the tolerance"
    if all(parity.n_equal == parity.n_rows for parity in parities):
        return "good", "bitwise equal"
    return "good", f"within {joined(sorted({parity.tolerance for parity in parities}))}"


def _range(ratios: list[Ratio]) -> str:
    values = [ratio.value for ratio in ratios if known(ratio)]
    if not values:
        return NOTHING
    low, high = f"{min(values):,.2f}", f"{max(values):,.2f}"
    return f"{low}×" if low == high else f"{low} to {high}×"


def worst(result: Result) -> list[tuple[Parity, WorstRow]]:
    """Return the rows on which contenders disagree most, worst first."""
    return [(parity, row) for parity in result.parity for row in parity.worst if row.difference != 0]


def score(value: float | str, difference: float) -> str:
    """Return a score with digits enough to show a difference."""
    if isinstance(value, str | int) or not math.isfinite(value):
        return str(value)
    small = math.isfinite(difference) and 0 < difference < 1e-2
    return f"{value:,.{min(9, 1 - math.floor(math.log10(difference))) if small else 4}f}"


def loads(result: Result) -> list[tuple[Cell, list[dict[str, Any]]]]:
    """Return each load with a row for each contender, and one below for each group of its requests, without ratios."""
    measured = [m for cell in result.cells for m in cell.measured.values()]
    rate = digits([m.rows_per_s for m in measured])
    latency = digits([m.latencies_ms.get(p) for m in measured for p in SHOWN])

    def row(cell: Cell, name: str, m: Measured) -> dict[str, Any]:
        groups = [(f"BERT_WEIGHT {group}", ms) for group, ms in sorted(m.groups_ms.items())]
        return {
            "name": name,
            "measured": m,
            "rate": fixed(m.rows_per_s, rate),
            "latencies": [fixed(m.latencies_ms.get(p), latency) for p in SHOWN],
            "ratios": _ratios(cell, name, result.contenders[0]),
            "groups": [(group, [fixed(ms.get(p), latency) for p in SHOWN]) for group, ms in groups],
        }

    return [
        (cell, [row(cell, name, cell.measured[name]) for name in result.contenders if name in cell.measured])
        for cell in result.cells
        if cell.measured
    ]


def _ratios(cell: Cell, name: str, baseline: str) -> list[tuple[str, str, str, bool]]:
    """Return throughput, p50 and p99 as a ratio, its interval, a doubt under the one that decides, and whether any."""
    if (compared := cell.compared.get(name)) is None:
        return [("", "", "", False)] * 3
    why = doubt(cell, name, baseline)
    decisive = compared.throughput if cell.load.rate is None else compared.p50
    return [
        (*factor(ratio), why if ratio is decisive else "", bool(why))
        for ratio in (compared.throughput, compared.p50, compared.p99)
    ]


def errors(result: Result) -> Cells:
    """Return load, contender, and how its requests failed."""
    return [
        [cell.load, name, m.n_errors, m.n_timeouts, m.first_error or NOTHING]
        for cell in result.cells
        for name, m in cell.measured.items()
        if m.n_failed
    ]


def not_measured(result: Result) -> Cells:
    """Return contender, reason, and the loads that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in result.cells:
        for it in cell.not_measured.items():
            found.setdefault(it, []).append(str(cell.load))
    n_all = len(result.cells)
    return [[*it, "every load" if len(where) == n_all > 1 else "; ".join(where)] for it, where in found.items()]


def steps(result: Result) -> list[tuple[str, list[tuple[Step, list[str], list[float]]]]]:
    """Return, for each contender, its steps with their durations, and these as percentages of the longest step."""
    longest = max((step.queue_ms + step.compute_ms for step in result.steps), default=0) or 1
    places = digits([ms for step in result.steps for ms in (step.queue_ms, step.compute_ms)])

    def row(step: Step) -> tuple[Step, list[str], list[float]]:
        durations = (step.queue_ms, step.compute_ms)
        return step, [fixed(ms, places) for ms in durations], [100 * ms / longest for ms in durations]

    found = [(name, [row(step) for step in result.steps if step.contender == name]) for name in result.contenders]
    return [(name, of_name) for name, of_name in found if of_name]


def stages(result: Result) -> tuple[Cells, Cells]:
    """Return the stages with their mean durations, and the routes with their shares."""
    timed = [stage for stage in result.stages if stage.mean_ms is not None]
    routes = [stage for stage in result.stages if stage.mean_ms is None]
    places = digits([stage.mean_ms for stage in timed])
    total = {route.contender: sum(r.n for r in routes if r.contender == route.contender) or 1 for route in routes}
    return (
        [[s.contender, s.name, s.n, fixed(s.mean_ms, places)] for s in timed],
        [[r.contender, r.name, r.n, f"{100 * r.n / total[r.contender]:.1f} %"] for r in routes],
    )


def processes(result: Result) -> Cells:
    """Return the local processes, the busiest first."""
    busiest = sorted(result.processes, key=lambda process: -process.cpu_s)
    return [[p.name, str(p.pid), fixed(p.cpu_s, 1), fixed(p.rss_mb, 0)] for p in busiest]
