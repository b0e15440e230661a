"""What a run has to hold to pass, and whether it does. Decided on intervals, never on points."""

from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.compare.result import Cell, GateCheck, Result
from dualpath.compare.stats import Ratio


@dataclass(frozen=True)
class Condition:
    """A limit for a ratio of B over A: of its "throughput" the smallest, of its "p50" or "p99" the largest."""

    measure: str
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} ratio at {'least' if self.measure == 'throughput' else 'most'} {self.limit:g}"

    def judge(self, ratio: Ratio) -> str:
        """Return "passed" or "failed" if the whole interval does, else "undecided"."""
        low, high = (ratio.low, ratio.high) if self.measure != "throughput" else (-ratio.high, -ratio.low)
        limit = self.limit if self.measure != "throughput" else -self.limit
        return "passed" if high <= limit else "failed" if low > limit else "undecided"


def check(result: Result, conditions: Sequence[Condition]) -> None:
    """Hold every load of a result to the conditions, and note in it what comes of that."""
    baseline, *others = result.contenders
    result.gate = [
        _check(cell, name, baseline, condition) for cell in result.cells for name in others for condition in conditions
    ]
    if conditions and not result.gate:
        result.gate = [GateCheck("no load", str(it), "undecided", None, "nothing was measured") for it in conditions]


def fails_under_load(result: Result) -> bool:
    """Say whether a contender failed requests of clients that wait, under a load of which the baseline answered all.

    At a rate a server may refuse what is beyond its capacity.
    """
    baseline, *others = result.contenders
    failed = [
        {name: it.n_failed for name, it in cell.measured.items()} for cell in result.cells if cell.load.rate is None
    ]
    return any(it.get(baseline) == 0 and it.get(name, 0) > 0 for it in failed for name in others)


def _check(cell: Cell, name: str, baseline: str, condition: Condition) -> GateCheck:
    load, why = str(cell.load), ""
    compared = cell.compared.get(name)
    for it in (name, baseline):
        why = why or cell.not_measured.get(it, "") or cell.no_verdict.get(it, "")
    if compared is None:
        return GateCheck(load, str(condition), "undecided", None, why or "too few answers")
    ratio: Ratio = getattr(compared, condition.measure)
    outcome = condition.judge(ratio)
    if outcome == "passed" and {name, baseline} & {*cell.client_bound}:
        why = why or "the client was the bottleneck"
    return GateCheck(load, str(condition), "undecided" if why else outcome, ratio, why)
