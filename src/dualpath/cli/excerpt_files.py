"""Excerpts from the command line, a file or a pipe, read as a stream."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from dualpath.errors import UserError
from dualpath.tables import Format, Table, TableRow, as_text, read_tables, shown

EXCERPT_COLUMN = "excerpt"
WEIGHT_COLUMN = "bert_weight"
SCORE_COLUMN = "score"


@dataclass(frozen=True)
class Excerpts:
    """A stream of rows, each with an excerpt.

    Attributes:
        columns: of the file; none of texts and lines of text.
        excerpt, weight: the columns that hold them, in the case in which the file has them.
    """

    records: Iterable[TableRow]
    columns: tuple[str, ...] = ()
    format: Format = Format.txt
    excerpt: str = EXCERPT_COLUMN
    weight: str = WEIGHT_COLUMN

    def check(self, row: TableRow, default: float) -> tuple[bytes, float]:
        """Return a row's excerpt, UTF-8, and its weight, which is the default if it has none.

        Raises:
            InvalidInput: one of them cannot be scored; the message begins with where the row stands.
        """
        from dualpath.readability.excerpts import InvalidInput, check_excerpt, check_weight

        if row.fault:
            raise InvalidInput(f"{row.where}: {row.fault}")
        value = row.cells.get(self.excerpt)
        if not isinstance(value, str | None):
            raise InvalidInput(f"{row.where}: {self.excerpt}: expected a text, got {shown(value)}. Quote it.")
        excerpt = as_text(value).encode(errors="surrogateescape")
        check_excerpt(excerpt, f"{row.where}: {self.excerpt}")
        text, where = row.text(self.weight).strip(), f"{row.where}: {self.weight}"
        try:
            weight = float(text or default)
        except ValueError:
            raise InvalidInput(f"{where}: expected a number from 0 to 1, got {text!r}. Correct it.") from None
        check_weight(weight, where)
        return excerpt, weight


@contextmanager
def open_excerpts(texts: list[str] | None, file: str | None, file_format: Format | None) -> Iterator[Excerpts]:
    """Open the excerpts of a command, with a progress bar on stderr if they come from a file.

    Raises:
        UserError: the file cannot be read, holds no excerpt, or has no column `excerpt`.
    """
    if texts:
        rows = enumerate((text.encode(errors="surrogateescape").decode(errors="surrogateescape") for text in texts), 1)
        yield Excerpts(TableRow(number, f"TEXT {number}", {EXCERPT_COLUMN: text}) for number, text in rows)
    elif file in (None, "-"):
        yield _excerpts(read_tables(sys.stdin.buffer, "stdin", file_format, text_column=EXCERPT_COLUMN))
    else:
        with _tracked(Path(str(file))) as lines:
            yield _excerpts(read_tables(lines, str(file), file_format, Format.txt, EXCERPT_COLUMN))


def printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's cells with a replacement character for each byte that is not UTF-8."""
    return {
        name: value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else value
        for name, value in row.items()
    }


def header(columns: tuple[str, ...]) -> list[str]:
    """Return the columns of what is written for a table with these columns."""
    return [*columns, *((SCORE_COLUMN,) if SCORE_COLUMN not in columns else ())]


def write_csv(columns: tuple[str, ...], with_header: bool = True) -> Callable[[TableRow, float | None], None]:
    """Print a CSV header; return the function that prints a scored row."""
    writer = csv.DictWriter(sys.stdout, header(columns), lineterminator="\n", extrasaction="ignore")
    if with_header:
        writer.writeheader()

    def write(row: TableRow, value: float | None) -> None:
        cells = {name: as_text(cell) for name, cell in printable(row.cells).items()}
        writer.writerow({**cells, SCORE_COLUMN: "" if value is None else f"{value:.6f}"})
        sys.stdout.flush()

    return write


def _excerpts(tables: list[Table]) -> Excerpts:
    """Take the first sheet that has excerpts."""
    for table in tables:
        names = {column.strip().lower(): column for column in reversed(table.columns)}
        if EXCERPT_COLUMN in names or not (table.columns or len(tables) > 1):
            records = _at_least_one(table.records, table.name)
            excerpt, weight = (names.get(column, column) for column in (EXCERPT_COLUMN, WEIGHT_COLUMN))
            columns = table.columns if table.format is not Format.txt else ()
            return Excerpts(records, columns, table.format, excerpt, weight)
    table = tables[0]
    found = ", ".join(map(repr, table.columns)) or "none"
    raise UserError(
        f"{table.name}: expected a column {EXCERPT_COLUMN!r}, got {found}. Rename one, or give --format txt."
    )


def _at_least_one(rows: Iterator[TableRow], name: str) -> Iterator[TableRow]:
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: expected at least one excerpt, got none. Add one.")
    return chain([first], rows)


@contextmanager
def _tracked(path: Path) -> Iterator[BinaryIO]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    # Only what goes to the terminal too may pass through the bar: rich would send a redirected stdout there.
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        try:
            file = progress.open(path, "rb", description=escape(path.name))
        except OSError as error:
            raise UserError(f"--file: expected a file, got {str(path)!r}: {error.strerror}. Name another.") from None
        with file, io.BufferedReader(cast(io.RawIOBase, file)) as buffered:
            yield buffered
