"""What may be concluded from the figures, in words."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import inf

import numpy as np
from scipy.stats import linregress

from dualpath.compare import stats
from dualpath.compare.load import Turn
from dualpath.compare.result import CONFIG, Cell, Compared, Load, Parity, Result, n_rows
from dualpath.compare.stats import Ratio

SAME = 1.1
"""Two contenders are as fast as each other if the interval holds 1 and is no wider than this, high over low."""
BUSY = 0.8
"""From this share of a core on, the client's one thread has little left."""
LATE_MS, LATE_SHARE = 2.0, 0.1
"""A client that is later than both, the second of the median latency, shows in it."""
KEEPS_UP = 0.95
"""A server that answers a smaller share of what arrives at a rate falls behind."""
SPREAD = 0.25
"""Standard deviation of a contender's log speed between turns, from which on the machine is called unsteady."""


class Verdict(StrEnum):
    """A contender against the baseline."""

    faster = "faster"
    slower = "slower"
    same = "as fast"
    noisy = "too noisy to say"
    none = "no verdict"


def speed(load: Load, compared: Compared) -> Ratio:
    """Return how many times as fast as the baseline: in rows per second, at a given rate by the median latency."""
    if load.rate is None:
        return compared.throughput
    return Ratio(1 / compared.p50.value, 1 / compared.p50.high, 1 / compared.p50.low if compared.p50.low else inf)


def judge(cell: Cell, name: str, baseline: str) -> Verdict:
    """Say what a cell allows to say on a contender."""
    ratio = speed(cell.load, cell.compared[name])
    if {name, baseline} & cell.no_verdict.keys():
        return Verdict.none
    if ratio.low > 1:
        return Verdict.faster
    if ratio.high < 1:
        return Verdict.slower
    if ratio.high > ratio.low * SAME:
        return Verdict.noisy
    return Verdict.none if {name, baseline} & {*cell.client_bound} else Verdict.same


def doubt(cell: Cell, *names: str) -> str:
    """Say in a few words why figures of these contenders are not to be taken as they stand; "" if they are."""
    said = [f"no verdict: {name} {cell.no_verdict[name]}" for name in names if name in cell.no_verdict]
    if {*names} & {*cell.client_bound}:
        said.append("the client was the bottleneck")
    return "; ".join(said)


def annotate(cell: Cell, turns: Mapping[str, Sequence[Turn]], contenders: Sequence[str]) -> None:
    """Note in a cell what a reader must know about its figures, and if they allow no verdict."""
    baseline = contenders[0]
    behind = _behind(cell, turns) if cell.load.rate is not None else {}
    for name in cell.compared if cell.load.rate is not None else ():
        # The median of an open loop leaves such rounds out; the throughput of a closed one has them.
        rounds = zip(turns[baseline], turns[name], strict=False)
        silent = {it for of in rounds for it, turn in zip((baseline, name), of, strict=True) if not turn.waits_ms()}
        if silent:
            cell.notes.append(f"No verdict on {name}: in some rounds one side answered nothing.")
        cell.no_verdict |= dict.fromkeys(sorted(silent), "left rounds unanswered")
    cell.no_verdict |= dict.fromkeys(behind, "cannot keep up")
    cell.notes += [*_about_figures(cell, baseline), *behind.values()]
    for name, taken in turns.items():
        answered = [turn for turn in taken if turn.n_rows]
        about_client = list(_about_client(name, answered)) if answered else []
        cell.client_bound += [name] * bool(about_client)
        cell.notes += about_client
        if answered and cell.load.rate is None:
            cell.notes += _about_machine(name, answered)


def _about_figures(cell: Cell, baseline: str) -> Iterable[str]:
    for name, compared in cell.compared.items():
        ratio = speed(cell.load, compared)
        if {name, baseline} & cell.no_verdict.keys():
            continue
        if ratio.high == inf:
            yield f"Too few turns for a verdict on {name}: a longer duration gives more."
        elif judge(cell, name, baseline) is Verdict.noisy:
            yield f"Too noisy for a verdict on {name}: its speed is {ratio} of {baseline}'s."
    for name, measured in cell.measured.items():
        if not measured.latencies_ms:
            yield f"{name} answered none of {measured.n_requests} requests: {measured.first_error or 'timed out'}"


def sentence(result: Result) -> str:
    """Return the verdict on a whole run: who is faster, and whether the answers agree."""
    baseline, *others = result.contenders
    said = [it for name in (baseline, *others) for it in _agreements(result, name)]
    if result.n_excused:
        said.append(f"{result.n_excused:,} answers were meant to differ, and were not compared.")
    said += [_decision(result)] if result.gate else []
    for other in others:
        cells = [cell for cell in result.cells if other in cell.compared]
        closed = [cell for cell in cells if cell.load.rate is None]
        open_ = [cell for cell in cells if cell.load.rate is not None]
        if closed:
            said.append(f"{other} against {baseline}, rows per second: {_counts(closed, other, baseline)}.")
        if open_:
            counts = _counts(open_, other, baseline)
            said.append(f"{other} against {baseline}, speed of the median answer at a given rate: {counts}.")
    if n_bound := sum(bool(cell.client_bound) for cell in result.cells):
        said.append(f"In {n_bound} of {len(result.cells)} loads the client was the bottleneck.")
    said += [_failures(result, name) for name in result.contenders]
    said = list(filter(None, said))
    return " ".join(said) or "Nothing was compared."


def _decision(result: Result) -> str:
    parts = []
    for outcome in ("failed", "undecided", "passed"):
        checks = [check for check in result.gate if check.outcome == outcome]
        if checks:
            named = "" if outcome == "passed" else f" ({'; '.join(f'{it.condition} at {it.load}' for it in checks)})"
            parts.append(f"{len(checks)} of {len(result.gate)} conditions {outcome}{named}")
    return f"Gate: {', '.join(parts)}."


def _failures(result: Result, name: str) -> str:
    measured = [cell.measured[name] for cell in result.cells if name in cell.measured]
    n_errors, n_timeouts = sum(it.n_errors for it in measured), sum(it.n_timeouts for it in measured)
    parts = [f"failed {n_errors} requests"] * (n_errors > 0) + [f"timed out on {n_timeouts}"] * (n_timeouts > 0)
    return f"{name} {' and '.join(parts)}{'' if n_errors else ' requests'}." if parts else ""


def _counts(cells: Sequence[Cell], name: str, baseline: str) -> str:
    parts = []
    for verdict in Verdict:
        values = sorted(speed(it.load, it.compared[name]).value for it in cells if judge(it, name, baseline) is verdict)
        if values:
            times = f" ({_range(values)} x)" if verdict in (Verdict.faster, Verdict.slower) else ""
            where = "" if len(cells) == 1 else f" under {len(values)} of {len(cells)} loads"
            parts.append(f"{verdict}{where}{times}")
    return ", ".join(parts)


def _range(values: Sequence[float]) -> str:
    low, high = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return low if low == high else f"{low} to {high}"


def _agreements(result: Result, other: str) -> Iterable[str]:
    """Say how far a contender's outputs agree: first those that do not, then all others in one sentence each way."""
    found = [parity for parity in result.parity if parity.other == other]
    wrong: dict[tuple[str, ...], list[Parity]] = {}
    for parity in found:
        if not parity.ok:
            alone = parity.output if CONFIG in parity.beyond else ""
            wrong.setdefault((parity.baseline, alone, *parity.beyond), []).append(parity)
    for parities in wrong.values():
        yield _disagreement(parities, result.contenders[0])
    alike: dict[tuple[str, str], list[Parity]] = {}
    for parity in found:
        if parity.ok and parity.n_rows:
            same = parity.n_equal == parity.n_rows
            how = "equal to the last bit" if same else f"within {parity.tolerance}, by up to {parity.largest:.2g} apart"
            alike.setdefault((_whose(parity, result.contenders[0]), f"{how} in {n_rows(parity.n_rows)}"), []).append(
                parity
            )
    for (whose, how), parities in alike.items():
        yield f"{whose}{', '.join(it.output for it in parities)}: {how}."
    for parity in found:
        if parity.ok and not parity.n_rows:
            yield f"{parity.output}: not compared."


def _whose(parity: Parity, baseline: str) -> str:
    return "" if parity.baseline == baseline else f"{parity.other} against {parity.baseline}: "


def _disagreement(parities: Sequence[Parity], baseline: str) -> str:
    """Say asked in which way outputs are wrong, and that a row alone would not have shown it."""
    first = parities[0]
    if CONFIG in first.beyond:
        [it] = first.worst
        return f"{first.output}: WRONG {CONFIG}: {it.baseline} of {first.baseline}, {it.other} of {first.other}."
    *ways, last = first.beyond
    where = f"{', '.join(ways)} and {last}" if ways else last
    alone = "" if "alone" in first.beyond else "alone equal, "
    whose = _whose(first, baseline)
    if first.other == first.baseline:
        whose = f"{first.baseline} CONTRADICTS ITSELF: "
    most = max(parities, key=lambda it: sum(it.beyond.values()) / it.n_answers)
    share = f"{sum(most.beyond.values()):,} of {most.n_answers:,} answers"
    if len({(sum(it.beyond.values()), it.n_answers, it.tolerance) for it in parities}) > 1:
        share = f"up to {share} beyond the tolerance"
    else:
        share += " differ" if first.tolerance == "exact" else f" not within {first.tolerance}"
    of = f"{first.output} of " if len(parities) > 1 else ""
    look = f" First look at {of}{first.worst[0]}." if first.worst else ""
    return f"{whose}{', '.join(it.output for it in parities)}: {alone}{where} WRONG: {share}.{look}"


def _behind(cell: Cell, turns: Mapping[str, Sequence[Turn]]) -> dict[str, str]:
    """Say who does not keep up with a rate: who gives up too many requests, or gets later the longer a turn lasts.

    A server that answers the share s of what arrives gets later by 1/s - 1 seconds each second. Requests answered over
    the time until the last answer would not tell: the last ones take time without a queue too.
    """
    said = {}
    for name, taken in turns.items():
        waits = np.array([wait for turn in taken for wait in turn.waits_s])
        n_answers = sum(len(turn.all_ms()) for turn in taken)
        if len(waits) < 3 or np.ptp(waits[:, 0]) == 0:
            continue
        line = linregress(waits[:, 0], waits[:, 1])
        if n_answers < KEEPS_UP * len(waits) or line.slope > max(1 / KEEPS_UP - 1, 3 * line.stderr):
            said[name] = (
                f"No verdict: {name} does not keep up with {cell.load.rate:g} requests/s; its latency grows with the "
                "length of a turn."
            )
    return said


def _about_client(name: str, turns: Sequence[Turn]) -> Iterable[str]:
    busy = float(np.median([turn.client_busy for turn in turns]))
    if busy > BUSY:
        yield f"With {name} the client itself was the bottleneck: it used {busy:.0%} of a core."
    lag_ms = float(np.median([turn.lag_ms for turn in turns]))
    if lag_ms > max(LATE_MS, LATE_SHARE * float(np.median([np.median(turn.all_ms()) for turn in turns]))):
        yield f"With {name} the client was {lag_ms:.1f} ms late; its latencies include that. Give the client more CPU."


def _about_machine(name: str, turns: Sequence[Turn]) -> Iterable[str]:
    spread = float(np.std(np.log(stats.throughput(turns))))
    if spread > SPREAD:
        yield f"The machine is not steady: from turn to turn {name}'s speed moved by {np.expm1(spread):.0%}."
