"""Results that were saved by `--json`: shown again, or set against a later one."""

import json
from collections.abc import Sequence
from math import exp, inf, log, sqrt
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from dualpath.compare import gate, verdict
from dualpath.compare.gate import Condition
from dualpath.compare.result import Result
from dualpath.compare.stats import Ratio
from dualpath.errors import UserError


def show(paths: Sequence[Path], conditions: Sequence[Condition] = ()) -> Result:
    """Read one result; of two, the second with notes on what changed since the first. UserError if one is no result."""
    if len(paths) > 2:
        raise UserError(f"--from: expected one result or two, got {len(paths)}. Leave some out.")
    *before, result = map(read, paths)
    if conditions:
        gate.check(result, conditions)
        result.verdict = verdict.sentence(result)
    result.notes += [note for it in before for note in _changes(it, result)]
    return result


def read(path: Path) -> Result:
    """Read a result from its JSON; UserError if the file is not there, or holds something else."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--from: expected a result that --json printed, got {str(path)!r}: {error}. Name one."
        ) from None
    try:
        result: Result = _typed(Result, plain)
        return result
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a result that --json printed, got something else ({error}). Name another."
        ) from None


def _typed(kind: Any, plain: Any) -> Any:
    """Make of JSON what a type hint says: dataclasses, and lists and dictionaries of them; a float of None is NaN."""
    of, origin = get_args(kind), get_origin(kind)
    if plain is None and NoneType in of:
        return None
    if Ratio in (kind, *of[:1]):
        return _ratio(plain)
    if hasattr(kind, "__dataclass_fields__"):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints[name], it) for name, it in plain.items()})
    if origin in (list, tuple):
        return origin(_typed(of[0], it) for it in plain)
    if origin is dict:
        return {_percentile(key) if of[0] is float else key: _typed(of[1], it) for key, it in plain.items()}
    return float("nan" if plain is None else plain) if kind is float else plain


def _percentile(text: str) -> float:
    return float(text) if "." in text else int(text)


def _ratio(plain: dict[str, float | None]) -> Ratio:
    """Read a ratio; what JSON could not hold is infinite, but for a lower end."""
    value, low, high = plain["value"], plain["low"], plain["high"]
    return Ratio(inf if value is None else value, low or 0.0, inf if high is None else high)


def _changes(before: Result, after: Result) -> list[str]:
    """Say for each load and contender that both have how its ratio over the baseline has changed."""
    cells = {cell.load: cell for cell in before.cells}
    said = []
    for cell in after.cells:
        for name, now in cell.compared.items():
            if cell.load in cells and (then := cells[cell.load].compared.get(name)):
                for what, a, b in (("throughput", then.throughput, now.throughput), ("p50", then.p50, now.p50)):
                    change = _quotient(b, a)
                    sure = "changed" if change.low > 1 or change.high < 1 else "no change that shows"
                    said.append(f"{name}, {cell.load}, {what} ratio: {a} before, {b} now: {sure}, {change}.")
    return said or ["The two results have no load and contender in common."]


def _quotient(now: Ratio, before: Ratio) -> Ratio:
    """Divide two independent ratios; their half intervals add up as variances do, on the logarithmic scale."""
    if not (now.low and before.low and max(now.high, before.high) < inf):
        return Ratio(now.value / before.value, 0.0, inf)
    value = log(now.value / before.value)
    low = sqrt(log(now.value / now.low) ** 2 + log(before.high / before.value) ** 2)
    high = sqrt(log(now.high / now.value) ** 2 + log(before.value / before.low) ** 2)
    return Ratio(exp(value), exp(value - low), exp(value + high))
