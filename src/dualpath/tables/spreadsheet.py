"""Read the sheets of an .xlsx spreadsheet as tables of text."""

import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.tables.table import Format, Table, as_text, check_columns, record


def read_sheets(file: BinaryIO, name: str) -> list[Table]:
    """Return a table for each sheet.

    Raises:
        UserError: openpyxl cannot read the file.
    """
    with needs("train"):
        import openpyxl
        from openpyxl.utils.escape import unescape

    def text(cell: Any) -> str:
        return unescape(cell) if isinstance(cell, str) else as_text(cell)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and validations that openpyxl does not know
        try:
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = [
                [[text(cell) for cell in cells] for cells in sheet.iter_rows(values_only=True)]
                for sheet in workbook.worksheets
            ]
        except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError, SyntaxError) as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{name}: expected an .xlsx spreadsheet, got one that openpyxl cannot read: {reason}. Save it again."
            ) from error
    return [_sheet(rows, name) for rows in sheets]


def _sheet(rows: Sequence[Sequence[str]], name: str) -> Table:
    filled = [(number, cells) for number, cells in enumerate(rows, start=1) if any(map(str.strip, cells))]
    if not filled:
        return Table(name, Format.xlsx, "row", 1, (), iter(()))
    (header_line, header), *rest = filled
    check_columns([column for column in header if column], f"{name}:{header_line}")
    records = (
        record(name, line, {column: cell for column, cell in zip(header, cells, strict=False) if column})
        for line, cells in rest
    )
    return Table(name, Format.xlsx, "row", header_line, tuple(filter(None, header)), records)
