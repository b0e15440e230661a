"""What answers are held to besides the baseline's, a file's `validation_data` and the configs, and which may differ."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.agreement import Agreement, Answer, Excuse
from dualpath.compare.inputs import InputRows, Row
from dualpath.compare.result import CONFIG, Parity, Result, WorstRow
from dualpath.compare.target import Pair, Target
from dualpath.compare.tolerance import Tolerance
from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

FILE = "validation_data"

Expected = Mapping[str, Answer]
"""Outputs of each row, by where they stand in the file; empty if it has none."""

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {"=": operator.eq, "<": operator.lt, ">": operator.gt}


def read(rows: InputRows, pair: Pair, targets: Iterable[Target], is_mixed: bool) -> Expected:
    """Return the outputs that a file expects.

    Args:
        is_mixed: whether each row is asked with several weights.
    Raises:
        UserError: they are none of the models' outputs, or a row has several answers.
    """
    if not rows.validation:
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


def parity_of(contenders: Sequence[str], output: str, types: tuple[str, str]) -> Parity:
    """Return what stands for an output that the two contenders' configs describe differently."""
    baseline, other = contenders
    unknown = float("nan")
    worst = WorstRow(CONFIG, *types, unknown)
    return Parity(baseline, other, output, 0, 0, unknown, unknown, 0.0, (worst,), "exact", 0, {CONFIG: 1})


def nothing_compared(result: Result) -> str:
    """Say why a comparison shows nothing, although nothing failed."""
    if result.n_excused:
        return (
            f"Nothing had to agree: --expect-differences excused all {result.n_excused:,} answers. Narrow it, or give "
            "rows that it does not hold for."
        )
    return "Nothing was compared: neither model gave any of the outputs that both have. Give other rows."


@dataclass(frozen=True)
class Filter:
    """A tensor and the value that all of its elements have to have, or that they have to be under or over."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read "ROUTE=cuml", "BERT_WEIGHT=0" or "GAIN>1"; UserError if it is not of that form."""
        if not (match := re.fullmatch(r"([^=<>]+)([=<>])(.*)", text, re.DOTALL)):
            raise UserError(
                f"--expect-differences: expected NAME=VALUE, NAME<VALUE or NAME>VALUE, got {text!r}. Correct it."
            )
        return cls(match[1].strip(), match[2], match[3].strip())

    def holds(self, array: npt.NDArray[Any] | None) -> bool:
        """Whether a row's tensor is as wanted."""
        if array is None:
            return False
        if array.dtype.kind == "O":
            return self.sign == "=" and all(value == self.value.encode() for value in array.flat)
        try:
            value = np.float64({"true": 1, "false": 0}.get(self.value.lower(), self.value))
        except ValueError:
            raise UserError(
                f"--expect-differences: expected a number, true or false for {self.name}, got {self.value!r}. Give one."
            ) from None
        wanted = array.dtype.type(value) if array.dtype.kind == "f" else value  # 0.7 is another number in FP32
        return bool(array.size and _COMPARE[self.sign](array, wanted).all())


def check_filters(filters: Sequence[Filter], tensors: Sequence[Tensor]) -> None:
    """Raise a UserError for a filter that names none of both models' inputs and outputs, or orders texts."""
    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    for it in filters:
        if it.name not in dtypes:
            known = ", ".join(dtypes)
            raise UserError(f"--expect-differences: expected one of {known}, got {it.name!r}. Correct the name.")
        if it.sign != "=" and dtypes[it.name] == "TYPE_STRING":
            raise UserError(
                f"--expect-differences: expected {it.name}=VALUE, as it is a text, got {it.name}{it.sign}{it.value}. "
                "Name a value, or another tensor."
            )


def excuse(filters: Sequence[Filter], rows: Sequence[Row]) -> Excuse:
    """Return what excuses a row that any of the filters holds for, in its inputs or in either answer."""

    def is_excused(row: int, baseline: Answer, other: Answer) -> bool:
        places = (rows[row].tensors, baseline, other)
        return any(it.holds(place.get(it.name)) for it in filters for place in places)

    return is_excused
