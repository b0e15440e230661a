"""Read rows, one at a time, from CSV, JSON lines or lines of text in UTF-8, from Parquet, or from a spreadsheet."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.tables.spreadsheet import read_sheets
from dualpath.tables.table import TOO_MUCH, Format, Table, TableRow, check_columns, record, shown

ENDINGS = {**{f".{format}": format for format in Format}, ".ndjson": Format.jsonl, ".tsv": Format.csv}
MAGIC = {b"PAR1": Format.parquet, b"PK\x03\x04": Format.xlsx}
"""How files begin, whatever their name."""
NOT_TEXT = {
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"%PDF": "a PDF",
}
CONTROL = bytes({*range(9), *range(14, 32)} - {27})
"""Bytes that texts do not have, but for a stray one."""
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Half of a character, such as \\ud83d in JSON; those left out stand for bytes that are not UTF-8."""


@contextmanager
def open_tables(path: Path, otherwise: Format | None = None) -> Iterator[list[Table]]:
    """Open a file's tables: one, or each sheet of a spreadsheet.

    Args:
        otherwise: the format of a file whose ending tells none; without it, its first line tells.
    Raises:
        UserError: it cannot be read, is no text, or has no header.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: expected a file to read, got: {error.strerror}. Name another.") from None
    with file:
        yield read_tables(file, str(path), otherwise=otherwise)


def read_tables(
    file: BinaryIO, name: str, format: Format | None = None, otherwise: Format | None = None, text_column: str = "text"
) -> list[Table]:
    """Read the tables of an open file or a pipe; text is read line by line, as it comes.

    Args:
        format: without it, the file's beginning and its name tell.
        text_column: what the one column of lines of text is called.
    Raises:
        UserError: as `open_tables`.
    """
    try:
        first = file.readline()
    except OSError as error:
        raise UserError(f"{name}: expected a file to read, got: {error.strerror}. Name another.") from None
    magic = next((found for start, found in MAGIC.items() if first.startswith(start)), None)
    format = magic or format or ENDINGS.get(Path(name).suffix.lower()) or otherwise or _guess(first)
    if format in MAGIC.values():
        whole = io.BytesIO(first + file.read())
        if format is Format.xlsx:
            return read_sheets(whole, name)
        opened = open_parquet(whole, name)
        rows = chain.from_iterable(batch.to_pylist() for batch in opened.iter_batches())
        return [parquet_table(opened.schema_arrow.names, rows, name)]
    if not_text := next((found for start, found in NOT_TEXT.items() if first.startswith(start)), None):
        raise UserError(f"{name}: expected text in UTF-8, got {not_text}. Save it as text in UTF-8.")
    # Of a pipe the first line has to do: to look ahead would wait for whoever writes it.
    head = first + (file.peek() if isinstance(file, io.BufferedReader) and file.seekable() else b"")
    if 0 in head and len(head) - len(head.translate(None, CONTROL)) > len(head) / 10:
        raise UserError(f"{name}: expected text in UTF-8, got bytes that are no text. Save it as text in UTF-8.")
    text = _decoded(chain([first], file))
    if format is Format.csv:
        return [_csv(text, name)]
    if format is Format.jsonl:
        records = _json_lines(text, name)
        row = next(records, None)
        columns = tuple(row.cells) if row else ()
        return [Table(name, format, "line", row.line if row else 1, columns, chain([row] if row else [], records))]
    return [Table(name, format, "line", 1, (text_column,), _lines(text, name, text_column))]


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Give a text's lines with their ends, a lone carriage return being one too, each as soon as it is there."""
    encoding = "utf-8-sig"
    for line in lines:
        yield from io.StringIO(line.decode(encoding, "surrogateescape"), newline="")
        encoding = "utf-8"


def _guess(first: bytes) -> Format:
    """Tell a CSV's header, or an object of JSON lines, from a text.

    A header has a column `excerpt`, or several columns that look like names. That of a table with another separator
    is taken for a CSV's too, which is refused, rather than scored.
    """
    line = first.decode("utf-8-sig", errors="replace").strip()
    if line.startswith("{") and line.endswith("}"):
        return Format.jsonl
    names = [name.strip() for name in next(csv.reader(line.splitlines()), [])]
    cells = [cell.strip(" \"'").lower() for cell in re.split("[,;|\t]", line)]
    is_header = "excerpt" in cells or (len(names) > 1 and all(map(str.isidentifier, names)))
    return Format.csv if is_header else Format.txt


def _lines(lines: Iterable[str], name: str, column: str) -> Iterator[TableRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield record(name, number, {column: line.rstrip("\r\n")})


def _csv(text: Iterable[str], name: str) -> Table:
    csv.field_size_limit(sys.maxsize)  # a text may be a whole book
    reader = csv.reader(text, strict=True)  # else an open quote would silently swallow the rows after it
    line, columns = 1, list[str]()
    try:
        while not any(map(str.strip, columns)):
            line = reader.line_num + 1
            columns = next(reader)
    except csv.Error as error:
        raise UserError(f"{name}:{line}: expected the header of a CSV, got: {error}. Close its quotes.") from None
    except StopIteration:
        raise UserError(f"{name}: expected a CSV with a header and rows, got an empty file. Add them.") from None
    check_columns(columns, f"{name}:{line}")

    def records() -> Iterator[TableRow]:
        cells: list[str] | None = []
        while cells is not None:
            line, fault = reader.line_num + 1, ""
            try:
                cells = next(reader, None)
            except csv.Error as error:
                cells, fault = [], f"expected a row of a CSV, got: {error}. Close its quotes."
            if cells and len(cells) != len(columns):
                hint = "Quote a text that holds commas." if len(cells) > len(columns) else "Add those that are missing."
                fault = f"expected {len(columns)} columns, got {len(cells)}. {hint}"
            if cells or fault:
                found = dict(zip(columns, cells or (), strict=False))
                yield record(name, line, dict.fromkeys(columns, "") | found, fault)

    return Table(name, Format.csv, "line", line, tuple(columns), records())


def _json_lines(lines: Iterable[str], name: str) -> Iterator[TableRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells, fault = json.loads(line.rstrip()), ""
            if "\\ud" in line.lower() and (half := HALF.search(json.dumps(cells, ensure_ascii=False))):
                cells, fault = None, f"expected text, got \\u{ord(half[0]):x}, half of a character. Correct the line."
        except json.JSONDecodeError as error:
            cells, fault = None, f"expected a JSON object, got: {error.msg} at column {error.colno}. Correct the line."
        except (ValueError, RecursionError):
            cells, fault = None, f"expected a JSON object, got {TOO_MUCH}. Leave the line out."
        if not isinstance(cells, dict):
            fault = fault or f'expected a JSON object such as {{"excerpt": "…"}}, got {shown(cells)}. Correct the line.'
            cells = {}
        yield record(name, number, cells, fault)


def open_parquet(file: BinaryIO, name: str) -> Any:
    """Return the ParquetFile.

    Raises:
        UserError: it is none, or two of its columns have the same name.
    """
    with needs("parquet"):
        from pyarrow import ArrowException, parquet
    try:
        opened = parquet.ParquetFile(file)
        columns = opened.schema_arrow.names
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{name}: expected a Parquet file, got: {reason}. Write it again.") from None
    check_columns(columns, name)
    return opened


def parquet_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], name: str, first: int = 0) -> Table:
    """Return the table of Parquet's rows, of which so many come before the first."""
    records = (record(name, number, cells) for number, cells in enumerate(rows, first + 1))
    return Table(name, Format.parquet, "row", 0, tuple(columns), records)
