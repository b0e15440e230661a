"""What a table and its rows are, whatever file they come from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dualpath.errors import UserError

Format = StrEnum("Format", ["csv", "jsonl", "txt", "parquet", "xlsx"])
"""How a file holds rows."""
TOO_MUCH = "a number of thousands of digits or lists within lists without end"
"""What is JSON, but not for Python."""


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row. Two are never equal, whatever they hold.

    Attributes:
        line: where it begins: a line of text, or a row of a spreadsheet, from 1.
        where: the same with the file's name: "in.csv:3".
        cells: by column: text of CSV and spreadsheets, any value of the other formats. Bytes that are not UTF-8 are
            surrogates.
        fault: what is wrong with the row's form; "" if nothing is.
    """

    line: int
    where: str
    cells: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    def text(self, column: str) -> str:
        """Return a cell as text, "" if there is none."""
        return as_text(self.cells.get(column))


@dataclass(frozen=True)
class Table:
    """A stream of rows, without those that are blank, to be read while its file is open.

    Attributes:
        unit: what `line` counts: "line" or "row".
        columns: of JSON lines those of the first row.
    """

    name: str
    format: Format
    unit: str
    header_line: int
    columns: tuple[str, ...]
    records: Iterator[TableRow]

    @property
    def has_text_cells(self) -> bool:
        """Whether all cells are text, so that a number has to be read from it."""
        return self.format in (Format.csv, Format.txt, Format.xlsx)


def record(name: str, line: int, cells: Mapping[str, Any], fault: str = "") -> TableRow:
    """Return a row of the file `name`, which has a fault if one of its texts holds a NUL byte."""
    if not fault and any(isinstance(value, str) and "\0" in value for value in cells.values()):
        fault = "expected text, got a NUL byte. Remove it."
    return TableRow(line, f"{name}:{line}", cells, fault)


def check_columns(columns: Sequence[str], where: str) -> None:
    """Refuse two columns of one name."""
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise UserError(f"{where}: expected columns of different names, got {twice!r} twice. Rename one.")


def as_text(value: Any) -> str:
    """Return a value as text: "" for None, lists as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else str(value)


def bad_byte(text: str) -> str | None:
    """Return the first byte that is not UTF-8 as "0xe9", or None."""
    surrogate = next((char for char in text if "\udc80" <= char <= "\udcff"), None)
    return surrogate and f"0x{ord(surrogate) - 0xDC00:02x}"


def shown(value: Any) -> str:
    """Return the beginning of a value as JSON, for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return TOO_MUCH
    return text if len(text) <= 40 else f"{text[:40]}…"
