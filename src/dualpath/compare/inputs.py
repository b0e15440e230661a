"""What the compared models are asked: rows from a table, from perf_analyzer's `--input-data` JSON, or built in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.sequences import FLAGS, Sequences, marked
from dualpath.compare.tensors import BadValue, from_base64, from_values
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, WEIGHT, Tensor
from dualpath.readability.excerpts import InvalidInput, check_excerpt, check_weight
from dualpath.readability.samples import SAMPLES
from dualpath.tables import TOO_MUCH, Format, read_tables, shown

DEFAULT_WEIGHT = 0.5
"""BERT_WEIGHT of rows that have none."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row, its tensors without a batch dimension, and where it stands: "ratings.csv:17"."""

    where: str
    tensors: Mapping[str, npt.NDArray[Any]]

    def with_weight(self, weight: float) -> Row:
        """Return the row with another BERT_WEIGHT, which `where` names."""
        tensors = {**self.tensors, WEIGHT.name: np.full_like(self.tensors[WEIGHT.name], weight)}
        return Row(f"{self.where}, {WEIGHT.name} {weight:g}", tensors)


@dataclass
class InputRows:
    """Rows as they were read, before a model says what their values have to be.

    Attributes:
        name: of the file, or "built-in excerpts".
        records: for each row where it stands, and its values by name: a table's cells, or perf_analyzer's JSON.
        is_table: whether they are cells, of which those that are no input are left out.
        is_text: whether all cells are text, so that a number has to be read from it.
        is_built_in: whether they came with this package.
        validation: for each row where its expected outputs stand, and those by name; empty if the file has none.
        sequences: the rows of each sequence that the file tells of; empty if it tells of none.
    """

    name: str
    records: Sequence[tuple[str, Mapping[str, Any]]]
    is_table: bool = False
    is_text: bool = False
    is_built_in: bool = False
    validation: Sequence[tuple[str, Mapping[str, Any]]] = ()
    sequences: Sequences = ()

    def tensors(self, inputs: Sequence[Tensor], optional: Collection[str] = ()) -> list[Row]:
        """Return the rows as tensors for these inputs; a missing BERT_WEIGHT is DEFAULT_WEIGHT.

        Args:
            optional: inputs that a row may leave out, as a table does by an empty cell.

        Raises:
            UserError: a row lacks an input, or has a value that is none of its type and shape.
        """
        names = [tensor.name for tensor in inputs]
        if self.is_built_in and not {*names} <= {EXCERPT.name, WEIGHT.name}:
            raise UserError(
                f"--input: expected a file with {', '.join(names)}, got the built-in excerpts, which have "
                f"{EXCERPT.name} only. Give one, or --random 100 for rows that are made up."
            )
        return [self._row(where, values, inputs, optional) for where, values in self.records]

    def expected(self, outputs: Sequence[Tensor], known: Collection[str]) -> list[dict[str, npt.NDArray[Any]]]:
        """Return for each row those of `outputs` that the file's `validation_data` has, without a batch dimension.

        Args:
            known: the names of all outputs that it may have.
        Raises:
            UserError: a value is none of its output's type and shape, or there is no such output.
        """
        for where, values in self.validation:
            if unknown := values.keys() - {*known}:
                names = ", ".join(sorted(known))
                raise UserError(f"{where}: expected outputs of the models ({names}), got {min(unknown)!r}. Remove it.")
        return [
            {
                tensor.name: _tensor(where, _from_json, values[tensor.name], tensor)
                for tensor in outputs
                if tensor.name in values
            }
            for where, values in self.validation
        ]

    def has(self, name: str) -> bool:
        """Return whether any row has a value for this input; BERT_WEIGHT has a default."""
        found = (_value(values, name, self.is_table) for _, values in self.records)
        return name == WEIGHT.name or any(value not in (None, "") for value in found)

    def n_without_weight(self) -> int:
        """Return how many rows have no BERT_WEIGHT."""
        return sum(_value(values, WEIGHT.name, self.is_table) in (None, "") for _, values in self.records)

    def _row(self, where: str, values: Mapping[str, Any], inputs: Sequence[Tensor], optional: Collection[str]) -> Row:
        tensors = {}
        for tensor in inputs:
            value = _value(values, tensor.name, self.is_table)
            if tensor.name == WEIGHT.name and value in (None, ""):
                value = str(DEFAULT_WEIGHT) if self.is_text else [DEFAULT_WEIGHT]
            if tensor.name in optional and (value is None or (value == "" and self.is_text)):
                continue
            if value is None:
                found = ", ".join(map(repr, values)) or "none"
                raise UserError(f"{where}: expected a value for {tensor.name}, got values for {found}. Add it.")
            if self.is_table and not self.is_text and not isinstance(value, list | dict):
                value = [value]
            tensors[tensor.name] = _tensor(where, _from_cell if self.is_text else _from_json, value, tensor)
        if not self.is_table and (more := values.keys() - {tensor.name for tensor in inputs} - {*FLAGS}):
            names = ", ".join(tensor.name for tensor in inputs)
            raise UserError(f"{where}: expected values for {names} only, got one for {min(more)!r} too. Leave it out.")
        if {EXCERPT.name, WEIGHT.name} <= tensors.keys():
            _check_ours(where, tensors)
        return Row(where, tensors)


def read(path: Path | None) -> InputRows:
    """Read a file, or the built-in excerpts; UserError if it cannot be read, is of no known format, or holds no row."""
    if path is None:
        records = [(f"built-in excerpt {title!r}", {EXCERPT.name: [text]}) for title, text in SAMPLES.items()]
        return InputRows("built-in excerpts", records, is_built_in=True)
    try:
        source = _read_json(path) if path.suffix.lower() == ".json" else _read_table(path)
    except OSError as error:
        raise UserError(f"--input: expected a file, got {str(path)!r}: {error.strerror}. Name another.") from None
    if not source.records:
        raise UserError(f"{path}: expected at least one row, got none. Add one.")
    return source


def _read_table(path: Path) -> InputRows:
    with path.open("rb") as file:
        table = read_tables(file, str(path))[0]
        if table.format is Format.txt:
            endings = ".csv, .jsonl, .parquet, .xlsx or .json"
            raise UserError(f"--input: expected a file that ends in {endings}, got {str(path)!r}. Name another.")
        records = []
        for row in table.records:
            if row.fault:
                raise UserError(f"{row.where}: {row.fault}")
            records.append((row.where, row.cells))
        return InputRows(str(path), records, is_table=True, is_text=table.has_text_cells, sequences=marked(records))


def _read_json(path: Path) -> InputRows:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{path}: expected UTF-8, got byte 0x{byte:02x} at offset {error.start}. Save it so.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: expected JSON, got: {error.msg} at column {error.colno}. Correct it."
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: expected JSON, got {TOO_MUCH}. Give less.") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        raise UserError(
            f'{path}: expected {{"data": [{{"INPUT": [values], …}}, …]}} as perf_analyzer\'s --input-data, got '
            f"{shown(content)}. Write it so."
        )
    records = _steps(path, "data", data)
    validation = content.get("validation_data", [])
    if not isinstance(validation, list) or (
        validation and len(_steps(path, "validation_data", validation)) != len(records)
    ):
        raise UserError(f"{path}: expected validation_data for each of {len(records)} rows, got other. Complete it.")
    sequences = marked(records) or (_streams(data) if any(isinstance(step, list) for step in data) else [])
    return InputRows(str(path), records, validation=_steps(path, "validation_data", validation), sequences=sequences)


def _streams(data: list[Any]) -> Sequences:
    """Return the rows of each stream: perf_analyzer's sequences."""
    lengths = [len(step) if isinstance(step, list) else 1 for step in data]
    bounds = pairwise([0, *accumulate(lengths)])
    return [range(start, end) for start, end in bounds if end > start]


def _steps(path: Path, name: str, data: list[Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each row of a list, and of the lists in it: streams, whose steps are taken one after the other."""
    steps = chain.from_iterable(step if isinstance(step, list) else [step] for step in data)
    records = [(f"{path}: {name}[{number}]", step) for number, step in enumerate(steps)]
    for where, step in records:
        if not isinstance(step, dict):
            raise UserError(f'{where}: expected {{"INPUT": [values], …}}, got {shown(step)}. Write it so.')
    return records


def _tensor(
    where: str, read: Callable[[Any, Tensor], npt.NDArray[Any]], value: Any, tensor: Tensor
) -> npt.NDArray[Any]:
    try:
        return read(value, tensor)
    except BadValue as error:
        raise UserError(f"{where}: {tensor.name}: {error}. Correct it.") from None
    except RecursionError:
        raise UserError(f"{where}: {tensor.name}: expected a list of values, got {TOO_MUCH}. Give less.") from None


def _value(values: Mapping[str, Any], name: str, is_table: bool) -> Any:
    """Return the value for an input, None if there is none; a table's column may be written in other case."""
    if name in values or not is_table:
        return values.get(name)
    columns = [column for column in values if column.strip().lower() == name.lower()]
    if len(columns) > 1:
        raise UserError(f"--input: expected one column for {name}, got {' and '.join(map(repr, columns))}. Rename one.")
    return values[columns[0]] if columns else None


def _from_cell(cell: str, tensor: Tensor) -> npt.NDArray[Any]:
    """Read a cell of text: one element as it stands, several as a JSON list."""
    is_text = tensor.dtype == "TYPE_STRING"
    if math.prod(tensor.dims) in (-1, 1) and (is_text or not cell.lstrip().startswith("[")):
        return from_values([cell.encode(errors="surrogateescape") if is_text else cell.strip()], tensor)
    try:
        values = json.loads(cell)
    except ValueError:  # no JSON, or a number of thousands of digits
        raise BadValue(f"expected a JSON list of {list(tensor.dims)} elements, got {shown(cell)}") from None
    return from_values(values, tensor)


def _from_json(value: Any, tensor: Tensor) -> npt.NDArray[Any]:
    """Read a tensor as perf_analyzer does: [values], {"b64": …} or {"content": either of them, "shape": […]}."""
    shape = None
    if isinstance(value, dict) and "content" in value:
        shape, value = value.get("shape"), value["content"]
        if shape is not None and not (isinstance(shape, list) and all(type(size) is int for size in shape)):
            raise BadValue(f"expected a shape such as [2, 8], got {shown(shape)}")
    if isinstance(value, dict):
        if not isinstance(value.get("b64"), str):
            raise BadValue(f'expected [values], {{"b64": …}} or {{"content": …, "shape": […]}}, got {shown(value)}')
        return from_base64(value["b64"], tensor, shape)
    return from_values(value, tensor, shape)


def _check_ours(where: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse what the project's own models would, before a server is asked."""
    try:
        for excerpt in tensors[EXCERPT.name].flat:
            check_excerpt(excerpt, f"{where}: {EXCERPT.name}")
        for weight in tensors[WEIGHT.name].flat:
            check_weight(float(weight), f"{where}: {WEIGHT.name}")
    except InvalidInput as error:
        raise UserError(str(error)) from None
