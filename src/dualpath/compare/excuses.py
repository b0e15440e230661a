"""Rows that are meant to differ, told by a value of an input or an output."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.agreement import Answer, Excuse
from dualpath.compare.inputs import Row
from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {"=": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Filter:
    """A tensor and the value that all of its elements have to have, or that they have to be under or over."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read "ROUTE=cuml", "BERT_WEIGHT=0" or "GAIN>1".

        Raises:
            UserError: it is not of that form.
        """
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
    """Refuse a filter that no row could fit.

    Args:
        tensors: the inputs and outputs of both models.
    Raises:
        UserError: a filter names no tensor, or orders texts.
    """
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
