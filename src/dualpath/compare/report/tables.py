"""The tables of the page: plain rows of words, numbers already rounded so that a column's points align."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dualpath.compare.report.wording import NOTHING, clean, difference, digits, factor, fixed, joined, known
from dualpath.compare.result import Cell, Parity, Result
from dualpath.compare.stats import Ratio
from dualpath.compare.verdict import doubt

MOST_WORST = 5
SHOWN = (50, 90, 99)  # percentiles of latency


@dataclass(frozen=True)
class Figure:
    """A ratio with its interval; `doubtful` if it is not to be taken as it stands, and in one of a row's, why."""

    value: str = ""
    interval: str = ""
    doubtful: bool = False
    why: str = ""


@dataclass
class Line:
    """A row of the table of loads: a contender's, or a group of its requests, which has no `place`.

    Attributes:
        ratios: of throughput, p50 and p99.
        counts: requests, and how many of them failed.
        load: in words, at a load's first row only, as are its notes and how many rows it spans.
    """

    place: int | None
    name: str
    rate: str
    latencies: list[str]
    ratios: list[Figure] = field(default_factory=lambda: [Figure()] * 3)
    counts: list[str] = field(default_factory=lambda: [""] * 2)
    load: str = ""
    span: int = 0
    notes: list[str] = field(default_factory=list)


def summary(result: Result) -> list[dict[str, Any]]:
    """Return a row for each contender: whether its scores agree, and how fast it is if a verdict is allowed."""
    rows = []
    for place, name in enumerate(result.contenders):
        void = {name, result.contenders[0]}
        compared = [
            (cell.load, cell.compared[name])
            for cell in result.cells
            if name in cell.compared and not void & cell.no_verdict.keys()
        ]
        measured = [cell.measured[name] for cell in result.cells if name in cell.measured]
        n_requests = sum(m.n_requests for m in measured)
        n_failed = sum(m.n_errors + m.n_timeouts for m in measured)
        rows.append(
            {
                "place": place,
                "name": clean(name),
                "agreement": _agreement([it for it in result.parity if it.other == name and (it.n_rows or not it.ok)]),
                "ratios": [
                    _range([c.throughput for load, c in compared if load.rate is None]),
                    _range([c.p50 for _, c in compared]),
                    _range([c.p99 for _, c in compared]),
                ],
                "n_requests": f"{n_requests:,}" if measured else NOTHING,
                "n_failed": f"{n_failed:,}" if measured else NOTHING,
                "bad": n_failed > 0,
            }
        )
    return rows


def _agreement(parities: list[Parity]) -> tuple[str, str]:
    """Return whether a contender's answers agree, as a word for the page and in words."""
    if not parities:
        return "", NOTHING
    if wrong := [parity for parity in parities if not parity.ok]:
        return "bad", f"{joined([clean(parity.output) for parity in wrong])} beyond the tolerance"
    if all(parity.n_equal == parity.n_rows for parity in parities):
        return "good", "bitwise equal"
    return "good", f"within {joined(sorted({parity.tolerance for parity in parities}))}"


def _range(ratios: list[Ratio]) -> str:
    values = [ratio.value for ratio in ratios if known(ratio)]
    if not values:
        return NOTHING
    low, high = f"{min(values):,.2f}", f"{max(values):,.2f}"
    return f"{low}×" if low == high else f"{low} to {high}×"


def parity(result: Result) -> list[dict[str, Any]]:
    """Return a row for each output of each contender."""
    places = {name: place for place, name in enumerate(result.contenders)}
    return [
        {
            "agrees": "no" if not parity.ok else "yes" if parity.n_rows else "not compared",
            "places": [places.get(name) for name in (parity.other, parity.baseline)],  # validation_data has none
            "cells": [
                clean(parity.other),
                clean(parity.baseline),
                clean(parity.output),
                f"{parity.n_rows:,}",
                f"{parity.n_equal:,}",
                *(difference(value) if parity.n_rows else NOTHING for value in (parity.largest, parity.mean)),
                parity.tolerance,
            ],
        }
        for parity in result.parity
    ]


def worst(result: Result) -> list[dict[str, Any]]:
    """Return the rows on which contenders disagree most, worst first."""
    return [
        {
            "beyond": not parity.ok,
            "cells": [
                *(clean(", ".join(filter(None, (row.where, row.place)))), clean(parity.output)),
                *(clean(parity.other), _value(row.other, row.difference)),
                *(clean(parity.baseline), _value(row.baseline, row.difference)),
                difference(row.difference),
            ],
        }
        for parity in result.parity
        for row in [row for row in parity.worst if row.difference != 0][:MOST_WORST]
    ]


def _value(value: float | str, difference: float) -> str:
    """Return a score with digits enough to show a difference."""
    if isinstance(value, str | int) or not math.isfinite(value):
        return clean(value)
    small = math.isfinite(difference) and 0 < difference < 1e-2
    return f"{value:,.{min(9, 1 - math.floor(math.log10(difference))) if small else 4}f}"


def loads(result: Result) -> list[Line]:
    """Return a row for each load and contender, and one below for each group of its requests."""
    measured = [m for cell in result.cells for m in cell.measured.values()]
    rate = digits([m.rows_per_s for m in measured])
    latency = digits([m.latencies_ms.get(p) for m in measured for p in SHOWN])
    lines = []
    for cell in result.cells:
        of_cell: list[Line] = []
        for place, name in enumerate(result.contenders):
            if (m := cell.measured.get(name)) is None:
                continue
            of_cell.append(
                Line(
                    place,
                    clean(name),
                    fixed(m.rows_per_s, rate),
                    [fixed(m.latencies_ms.get(p), latency) for p in SHOWN],
                    _ratios(cell, name, result.contenders[0]),
                    [f"{n:,}" for n in (m.n_requests, m.n_errors + m.n_timeouts)],
                )
            )
            of_cell += [
                Line(None, f"BERT_WEIGHT {clean(group)}", "", [fixed(ms.get(p), latency) for p in SHOWN])
                for group, ms in sorted(m.groups_ms.items())
            ]
        if of_cell:
            of_cell[0].load, of_cell[0].span = str(cell.load), len(of_cell)
            of_cell[0].notes = [clean(note) for note in cell.notes]
        lines += of_cell
    return lines


def _ratios(cell: Cell, name: str, baseline: str) -> list[Figure]:
    """Return the ratios of throughput, p50 and p99; a doubt stands under the one that the verdict goes by."""
    if (compared := cell.compared.get(name)) is None:
        return [Figure()] * 3
    why = clean(doubt(cell, name, baseline))
    decisive = compared.throughput if cell.load.rate is None else compared.p50
    return [
        Figure(*factor(ratio), bool(why), why if ratio is decisive else "")
        for ratio in (compared.throughput, compared.p50, compared.p99)
    ]


def errors(result: Result) -> list[list[str]]:
    """Return load, contender, and how its requests failed."""
    return [
        [str(cell.load), clean(name), f"{m.n_errors:,}", f"{m.n_timeouts:,}", clean(m.first_error or NOTHING)]
        for cell in result.cells
        for name, m in cell.measured.items()
        if m.n_errors or m.n_timeouts
    ]


def not_measured(result: Result) -> list[list[str]]:
    """Return contender, reason, and the loads that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in result.cells:
        for name, reason in cell.not_measured.items():
            found.setdefault((name, reason), []).append(str(cell.load))
    return [
        [clean(name), clean(reason), "every load" if len(where) == len(result.cells) > 1 else "; ".join(where)]
        for (name, reason), where in found.items()
    ]


def steps(result: Result) -> list[dict[str, Any]]:
    """Return, for each contender, its steps and their share in its longest."""
    longest = max((step.queue_ms + step.compute_ms for step in result.steps), default=0) or 1
    places = digits([ms for step in result.steps for ms in (step.queue_ms, step.compute_ms)])
    return [
        {
            "place": place,
            "name": clean(name),
            "steps": [
                {
                    "cells": [
                        clean(step.model),
                        f"{step.n_rows:,}",
                        f"{step.n_executions:,}",
                        fixed(step.n_rows / step.n_executions if step.n_executions else None, 1),
                        fixed(step.queue_ms, places),
                        fixed(step.compute_ms, places),
                    ],
                    "note": clean(step.note),
                    "bar": [100 * step.queue_ms / longest, 100 * step.compute_ms / longest],
                }
                for step in result.steps
                if step.contender == name
            ],
        }
        for place, name in enumerate(result.contenders)
        if any(step.contender == name for step in result.steps)
    ]


def stages(result: Result) -> tuple[list[list[str]], list[list[str]]]:
    """Return the stages with their mean durations, and the routes with their shares."""
    timed = [stage for stage in result.stages if stage.mean_ms is not None]
    routes = [stage for stage in result.stages if stage.mean_ms is None]
    places = digits([stage.mean_ms for stage in timed])
    total = {route.contender: sum(r.n for r in routes if r.contender == route.contender) or 1 for route in routes}
    return (
        [[clean(s.contender), clean(s.name), f"{s.n:,}", fixed(s.mean_ms, places)] for s in timed],
        [[clean(r.contender), clean(r.name), f"{r.n:,}", f"{100 * r.n / total[r.contender]:.1f} %"] for r in routes],
    )


def processes(result: Result) -> list[list[str]]:
    """Return the local processes, the busiest first."""
    busiest = sorted(result.processes, key=lambda process: -process.cpu_s)
    return [[clean(p.name), str(p.pid), fixed(p.cpu_s, 1), fixed(p.rss_mb, 0)] for p in busiest]
