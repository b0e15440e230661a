"""Tables of text from a CSV file or a spreadsheet, each row with the line where it begins."""

from __future__ import annotations

import csv
import io
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.errors import UserError

ZIP = b"PK\x03\x04"
"""How an .xlsx file begins, whatever its name."""


@dataclass(frozen=True)
class Record:
    """A row: the line where it begins, its cells as text, and what is wrong with its form."""

    line: int
    cells: Sequence[str]
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """A header and the rows below it, without those that are blank.

    Attributes:
        unit: what `line` counts: a CSV's lines or a spreadsheet's rows, from 1.
    """

    unit: str
    header_line: int
    header: Sequence[str]
    records: list[Record]


def read_tables(path: Path) -> list[Table]:
    """Read a CSV file in UTF-8, which is one table, or an .xlsx file, where each sheet is one.

    Raises:
        UserError: the file cannot be read, is neither, or is a spreadsheet and openpyxl is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: expected a readable CSV file or .xlsx spreadsheet, found: {error.strerror}."
        ) from error
    if data.startswith(ZIP):
        return [_table("row", rows) for rows in _sheets(data, path)]
    table = _table("line", _csv(data, path))
    width = len(table.header)
    for number, record in enumerate(table.records):
        if len(record.cells) > width:
            fault = f"expected {width} columns, found {len(record.cells)}: is a text with commas not in quotes?"
            table.records[number] = Record(record.line, (), fault)
    return [table]


def _table(unit: str, rows: Iterable[Record]) -> Table:
    filled = [row for row in rows if row.fault or any(map(str.strip, row.cells))]
    return Table(unit, filled[0].line, filled[0].cells, filled[1:]) if filled else Table(unit, 1, (), [])


def _csv(data: bytes, path: Path) -> Iterator[Record]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: expected UTF-8 text, found byte 0x{data[error.start]:02x}. "
            "Save the file as CSV in UTF-8, or as .xlsx."
        ) from error
    csv.field_size_limit(sys.maxsize)  # an excerpt may be a whole book
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # else an open quote would swallow what follows
    while True:
        line = reader.line_num + 1
        try:
            yield Record(line, next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(line, (), f"expected a row of a CSV, found: {error}")


def _sheets(data: bytes, path: Path) -> list[list[Record]]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: expected the package openpyxl to read a spreadsheet, found it is not installed. "
            "Run `pip install 'dualpath[train]'`, or save the sheet as CSV in UTF-8."
        ) from None
    from openpyxl.utils.escape import unescape

    def text(cell: Any) -> str:
        return unescape(cell) if isinstance(cell, str) else "" if cell is None else str(cell)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and validations that openpyxl does not know
        try:
            workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            return [
                [
                    Record(line, [text(cell) for cell in cells])
                    for line, cells in enumerate(sheet.iter_rows(values_only=True), start=1)
                ]
                for sheet in workbook.worksheets
            ]
        except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError, SyntaxError) as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{path}: expected an .xlsx spreadsheet, found one that openpyxl cannot read: {reason}."
            ) from error
