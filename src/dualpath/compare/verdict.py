"""What may be concluded from the figures, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import inf

import numpy as np

from dualpath.compare import stats
from dualpath.compare.load import Turn
from dualpath.compare.result import Cell, Compared, Load, Parity, Result
from dualpath.compare.stats import Ratio

SAME = 1.1
"""Two contenders are as fast as each other where the interval holds 1 and is no wider than this, high over low."""
BUSY = 0.8
"""From this share of a core on, the client's one thread has little left."""
LATE_MS, LATE_SHARE = 2.0, 0.1
"""A client that is later than both, the second of the median latency, shows in it."""
SPREAD = 0.25
"""Standard deviation of a contender's log speed between turns, from which on the machine is called unsteady."""


class Verdict(StrEnum):
    """A contender against the baseline."""

    faster = "faster"
    slower = "slower"
    same = "as fast"
    noisy = "too noisy to say"


def speed(load: Load, compared: Compared) -> Ratio:
    """Return how many times as fast as the baseline: in rows per second, at a given rate by the median latency."""
    if load.rate is None:
        return compared.throughput
    return Ratio(1 / compared.p50.value, 1 / compared.p50.high, 1 / compared.p50.low if compared.p50.low else inf)


def judge(ratio: Ratio) -> Verdict:
    """Say what an interval allows to say."""
    if ratio.low > 1:
        return Verdict.faster
    if ratio.high < 1:
        return Verdict.slower
    return Verdict.same if ratio.high <= ratio.low * SAME else Verdict.noisy


def notes(cell: Cell, turns: Mapping[str, Sequence[Turn]], contenders: Sequence[str]) -> list[str]:
    """Return what a reader must know about a cell's figures."""
    said = []
    for name, compared in cell.compared.items():
        ratio = speed(cell.load, compared)
        if ratio.high == inf:
            said.append(f"Too few turns for a verdict on {name}: a longer duration gives more.")
        elif judge(ratio) is Verdict.noisy:
            said.append(f"Too noisy for a verdict on {name}: its speed is {ratio} of {contenders[0]}'s.")
    for name, measured in cell.measured.items():
        if not measured.latencies_ms:
            said.append(
                f"{name} answered none of {measured.n_requests} requests: {measured.first_error or 'timed out'}"
            )
    for name, taken in turns.items():
        answered = [turn for turn in taken if turn.n_rows]
        if answered:
            said += _about_client(name, answered)
        if answered and cell.load.rate is None:
            said += _about_machine(name, answered)
    return said


def sentence(result: Result) -> str:
    """Return the verdict on a whole run: who is faster, and whether the answers agree."""
    baseline, *others = result.contenders
    said = []
    for other in others:
        cells = [cell for cell in result.cells if other in cell.compared]
        closed = [speed(cell.load, cell.compared[other]) for cell in cells if cell.load.rate is None]
        open_ = [speed(cell.load, cell.compared[other]) for cell in cells if cell.load.rate is not None]
        if closed:
            said.append(f"{other} against {baseline}, rows per second: {_counts(closed)}.")
        if open_:
            said.append(f"{other} against {baseline}, speed of the median answer at a given rate: {_counts(open_)}.")
        agreement = [parity for parity in result.parity if parity.other == other]
        said += [_agreement(parity) for parity in agreement]
    failed = {
        name: sum(cell.measured[name].n_errors for cell in result.cells if name in cell.measured)
        for name in result.contenders
    }
    said += [f"{name} failed {n} requests." for name, n in failed.items() if n]
    return " ".join(said) or "Nothing was compared."


def _counts(ratios: Sequence[Ratio]) -> str:
    parts = []
    for verdict in Verdict:
        values = sorted(ratio.value for ratio in ratios if judge(ratio) is verdict)
        if values:
            times = f" ({_range(values)} x)" if verdict in (Verdict.faster, Verdict.slower) else ""
            where = "" if len(ratios) == 1 else f" under {len(values)} of {len(ratios)} loads"
            parts.append(f"{verdict}{where}{times}")
    return ", ".join(parts)


def _range(values: Sequence[float]) -> str:
    low, high = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return low if low == high else f"{low} to {high}"


def _agreement(parity: Parity) -> str:
    if not parity.n_rows:
        return f"{parity.output} was not compared."
    if parity.n_equal == parity.n_rows:
        return f"{parity.output} is equal to the last bit in all {parity.n_rows} rows."
    within = f"within {parity.atol:g}" if parity.ok else f"NOT within {parity.atol:g}"
    worst = f" in {parity.worst[0].where}" if parity.worst and not parity.ok else ""
    return f"{parity.output} agrees {within}: it differs by up to {parity.largest:.2g}{worst}."


def _about_client(name: str, turns: Sequence[Turn]) -> Iterable[str]:
    busy = float(np.median([turn.client_busy for turn in turns]))
    if busy > BUSY:
        yield f"With {name} the client itself was the bottleneck: it used {busy:.0%} of a core."
    lag_ms = float(np.median([turn.lag_ms for turn in turns]))
    if lag_ms > max(LATE_MS, LATE_SHARE * float(np.median(stats.latency(turns, 50)))):
        yield f"With {name} the client was {lag_ms:.1f} ms late, which its latencies hold: it wants more CPU."


def _about_machine(name: str, turns: Sequence[Turn]) -> Iterable[str]:
    spread = float(np.std(np.log(stats.throughput(turns))))
    if spread > SPREAD:
        yield f"The machine is not steady: from turn to turn {name}'s speed moved by {np.expm1(spread):.0%}."
