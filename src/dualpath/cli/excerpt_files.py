"""Excerpts from the command line, a CSV or a text file, read as a stream."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dualpath.errors import UserError

if TYPE_CHECKING:
    from _csv import Reader

EXCERPT_COLUMN = "excerpt"
WEIGHT_COLUMN = "bert_weight"
SCORE_COLUMN = "score"

# Bytes that are not UTF-8 must reach the check that names their row, so they travel as surrogates. A BOM is dropped.
_ENCODING, _ERRORS = "utf-8-sig", "surrogateescape"


class Format(StrEnum):
    """How a file holds excerpts: `csv` with a header, or `txt`, one excerpt a line."""

    csv = "csv"
    txt = "txt"


@dataclass(frozen=True, eq=False)
class Excerpt:
    """One row: an excerpt as UTF-8 bytes, where it stands, a CSV's columns, and what is wrong with the row's form.

    Two rows are never equal, whatever they hold.
    """

    excerpt: bytes
    where: str
    columns: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    def weight(self, default: float) -> float:
        """Check the row and return its weight, which is the default where it has none.

        Raises:
            InvalidInput: the excerpt or the weight cannot be scored; the message begins with where it stands.
        """
        from dualpath.readability.excerpts import InvalidInput, check_excerpt, check_weight

        if self.fault:
            raise InvalidInput(f"{self.where}: {self.fault}")
        check_excerpt(self.excerpt, f"{self.where}: {EXCERPT_COLUMN}")
        text = self.columns.get(WEIGHT_COLUMN, "").strip()
        where = f"{self.where}: {WEIGHT_COLUMN}"
        try:
            weight = float(text or default)
        except ValueError:
            raise InvalidInput(f"{where}: expected a number from 0 to 1, got {text!r}.") from None
        check_weight(weight, where)
        return weight

    def record(self) -> dict[str, str]:
        """Return the row's columns, the excerpt among them, as text that can be printed."""
        columns = self.columns or {EXCERPT_COLUMN: self.excerpt.decode(errors=_ERRORS)}
        return {name: text.encode(errors=_ERRORS).decode(errors="replace") for name, text in columns.items()}


@dataclass(frozen=True)
class Source:
    """A stream of excerpts; `columns` are those of a CSV, otherwise empty."""

    excerpts: Iterable[Excerpt]
    columns: tuple[str, ...] = ()


@contextmanager
def open_excerpts(texts: list[str] | None, file: str | None, file_format: Format | None) -> Iterator[Source]:
    """Open the excerpts of a command, with a progress bar on stderr where they come from a file.

    Raises:
        UserError: the file cannot be read, holds no excerpt, or is a CSV without the column `excerpt`.
    """
    if file is None:
        yield Source(_from_texts(texts or []))
    elif file == "-":
        with open(sys.stdin.fileno(), encoding=_ENCODING, errors=_ERRORS, newline="", closefd=False) as lines:
            yield _source(lines, "stdin", file_format or Format.txt)
    else:
        path = Path(file)
        with _tracked(path) as lines:
            by_ending = Format.csv if path.suffix.lower() == ".csv" else Format.txt
            yield _source(lines, file, file_format or by_ending)


def write_csv(columns: tuple[str, ...]) -> Callable[[Excerpt, float | None], None]:
    """Print a CSV header; return the function that prints a scored row."""
    header = [*columns, *((SCORE_COLUMN,) if SCORE_COLUMN not in columns else ())]
    writer = csv.DictWriter(sys.stdout, header, lineterminator="\n")
    writer.writeheader()

    def write(row: Excerpt, value: float | None) -> None:
        writer.writerow({**row.record(), SCORE_COLUMN: "" if value is None else f"{value:.6f}"})
        sys.stdout.flush()

    return write


def _from_texts(texts: list[str]) -> Iterator[Excerpt]:
    for number, text in enumerate(texts, start=1):
        yield Excerpt(text.encode(errors=_ERRORS), f"TEXT {number}")


def _source(lines: TextIO, name: str, file_format: Format) -> Source:
    if file_format is Format.txt:
        return Source(_at_least_one(_from_lines(lines, name), name))
    csv.field_size_limit(sys.maxsize)  # an excerpt may be a whole book
    reader = csv.reader(lines, strict=True)  # else a quote left open would silently swallow the rows after it
    columns = _header(reader, name)
    return Source(_at_least_one(_from_csv(reader, columns, name), name), columns)


def _at_least_one(rows: Iterator[Excerpt], name: str) -> Iterator[Excerpt]:
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: expected at least one excerpt, got none.")
    return chain([first], rows)


def _from_lines(lines: TextIO, name: str) -> Iterator[Excerpt]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Excerpt(line.rstrip("\r\n").encode(errors=_ERRORS), f"{name}:{number}")


def _header(reader: Reader, name: str) -> tuple[str, ...]:
    try:
        columns = next(filter(None, reader), None)
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: expected the header of a CSV, got: {error}.") from None
    if columns is None:
        raise UserError(f"{name}: expected a CSV with a column {EXCERPT_COLUMN!r}, got an empty file.")
    if EXCERPT_COLUMN not in columns:
        raise UserError(f"{name}: expected a column {EXCERPT_COLUMN!r}, got {', '.join(map(repr, columns))}.")
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise UserError(f"{name}: expected columns of different names, got {twice!r} twice.")
    return tuple(columns)


def _from_csv(reader: Reader, columns: tuple[str, ...], name: str) -> Iterator[Excerpt]:
    while True:
        where = f"{name}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Excerpt(b"", where, dict.fromkeys(columns, ""), f"expected a row of a CSV, got: {error}.")
            continue
        row = dict(zip(columns, chain(cells, repeat("")), strict=False))
        fault = ""
        if len(cells) != len(columns):
            hint = " Quote a text that holds commas." if len(cells) > len(columns) else ""
            fault = f"expected {len(columns)} columns, got {len(cells)}.{hint}"
        if cells:
            yield Excerpt(row[EXCERPT_COLUMN].encode(errors=_ERRORS), where, row, fault)


@contextmanager
def _tracked(path: Path) -> Iterator[TextIO]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    # Only what goes to the terminal too may pass through the bar: rich would send a redirected stdout there.
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        try:
            file = progress.open(
                path, "r", encoding=_ENCODING, errors=_ERRORS, newline="", description=escape(path.name)
            )
        except OSError as error:
            raise UserError(f"--file: expected a file, got {str(path)!r}: {error.strerror}.") from None
        with file as lines:
            yield lines
