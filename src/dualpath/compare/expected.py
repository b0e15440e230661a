"""What answers are held to besides the baseline's: a file's `validation_data`, and the models' own configs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dualpath.compare.agreement import Agreement, Answer
from dualpath.compare.inputs import InputRows
from dualpath.compare.made_up import RandomRows
from dualpath.compare.result import CONFIG, Parity, Result, WorstRow
from dualpath.compare.target import AtOdds, Pair, Target
from dualpath.compare.tolerance import Tolerance
from dualpath.errors import UserError

FILE = "validation_data"

Expected = Mapping[str, Answer]
"""Outputs of each row, by where they stand in the file; empty if it has none."""


def read(rows: InputRows | RandomRows, pair: Pair, targets: Iterable[Target], is_mixed: bool) -> Expected:
    """Return the outputs that a file expects.

    Args:
        is_mixed: whether each row is asked with several weights.
    Raises:
        UserError: they are none of the models' outputs, or a row has several answers.
    """
    if not isinstance(rows, InputRows) or not rows.validation:
        return {}
    if is_mixed or pair.streams:
        what = "--mix" if is_mixed else "decoupled models"
        raise UserError(f"{rows.name}: expected {FILE} for one answer to each row, got {what}. Remove {FILE}.")
    known = {tensor.name for model in targets for tensor in model.outputs}
    found = rows.expected(pair.outputs, known)
    return {where: outputs for (where, _), outputs in zip(rows.validation, found, strict=True)}


def compare(
    expected: Expected,
    targets: Mapping[str, Target],
    tolerances: Mapping[str, Tolerance],
    answers: Sequence[tuple[int, tuple[Answer, Answer]]],
) -> list[Parity]:
    """Compare both models' answers to lone rows with those that a file expects."""
    wheres, rows = list(expected), list(expected.values())
    given = {output: it for output, it in tolerances.items() if any(output in row for row in rows)}
    found = []
    for place, (name, model) in enumerate(targets.items() if given else ()):
        against = Agreement((FILE, name), wheres, given, (False, model.max_batch_size > 0))
        for number, answered in answers:
            against.learn(number, rows[number])
            # What the file says nothing of may be anything.
            against.judge(name, [number], {it: array for it, array in answered[place].items() if it in rows[number]})
        found += [it for it in against.parities() if it.other == name]
    return found


def parity_of(contenders: Sequence[str], odds: AtOdds) -> Parity:
    """Return what stands for an output that the two contenders' configs describe differently."""
    baseline, other = contenders
    unknown = float("nan")
    worst = WorstRow(CONFIG, odds.baseline, odds.other, unknown)
    return Parity(baseline, other, odds.output, 0, 0, unknown, unknown, 0.0, (worst,), "exact", 0, {CONFIG: 1})


def nothing_compared(result: Result) -> str:
    """Say why a comparison shows nothing, although nothing failed."""
    if result.n_excused:
        return (
            f"Nothing had to agree: --expect-differences excused all {result.n_excused:,} answers. Narrow it, or give "
            "rows that it does not hold for."
        )
    return "Nothing was compared: neither model gave any of the outputs that both have. Give other rows."
