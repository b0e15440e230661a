"""Excerpts from the command line, a CSV or a text file, read as a stream."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from dualpath.errors import UserError

EXCERPT_COLUMN = "excerpt"
WEIGHT_COLUMN = "bert_weight"
SCORE_COLUMN = "score"

# Bytes that are not UTF-8 must reach the check that names their row, so they travel as surrogates.
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


class Format(StrEnum):
    """How a file holds excerpts: `csv` with a header, or `txt`, one excerpt a line."""

    csv = "csv"
    txt = "txt"


@dataclass(frozen=True)
class Excerpt:
    """An excerpt as UTF-8 bytes, where it stands, and the other columns of its row."""

    excerpt: bytes
    where: str
    columns: dict[str, str] = field(default_factory=dict)

    def check(self, default_weight: float) -> float:
        """Return the row's weight.

        Raises:
            InvalidInput: the excerpt or the weight cannot be scored; the message begins with where it stands.
        """
        from dualpath.readability.excerpts import InvalidInput, check_excerpt, check_weight

        check_excerpt(self.excerpt, f"{self.where}: {EXCERPT_COLUMN}")
        text = self.columns.get(WEIGHT_COLUMN) or default_weight
        where = f"{self.where}: {WEIGHT_COLUMN}"
        try:
            weight = float(text)
        except ValueError:
            raise InvalidInput(f"{where}: expected a number from 0 to 1, got {text!r}.") from None
        check_weight(weight, where)
        return weight

    def record(self) -> dict[str, str]:
        """Return the row's columns, the excerpt among them."""
        return self.columns or {EXCERPT_COLUMN: self.excerpt.decode(errors="replace")}


@dataclass(frozen=True)
class Source:
    """A stream of excerpts; `columns` are those of a CSV, otherwise empty."""

    excerpts: Iterable[Excerpt]
    columns: tuple[str, ...] = ()


@contextmanager
def open_excerpts(texts: list[str] | None, file: str | None, file_format: Format | None) -> Iterator[Source]:
    """Open the excerpts of a command, with a progress bar on stderr where they come from a file.

    Raises:
        UserError: the file is missing, empty, or a CSV without the column `excerpt`.
    """
    if file is None:
        yield Source(_from_texts(texts or []))
    elif file == "-":
        with open(sys.stdin.fileno(), encoding=_ENCODING, errors=_ERRORS, newline="", closefd=False) as lines:
            yield _source(lines, "stdin", file_format or Format.txt)
    else:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--file: expected a file, got {file!r}, which does not exist or is not a file.")
        with _tracked(path) as lines:
            by_ending = Format.csv if path.suffix.lower() == ".csv" else Format.txt
            yield _source(lines, file, file_format or by_ending)


def write_csv(columns: tuple[str, ...]) -> Callable[[Excerpt, float | None], None]:
    """Print a CSV header; return the function that prints a scored row."""
    header = [*columns, *((SCORE_COLUMN,) if SCORE_COLUMN not in columns else ())]
    writer = csv.DictWriter(sys.stdout, header, lineterminator="\n")
    writer.writeheader()

    def write(row: Excerpt, value: float | None) -> None:
        shown = {name: text.encode(errors=_ERRORS).decode(errors="replace") for name, text in row.columns.items()}
        writer.writerow({**shown, SCORE_COLUMN: "" if value is None else f"{value:.6f}"})
        sys.stdout.flush()

    return write


def _from_texts(texts: list[str]) -> Iterator[Excerpt]:
    for number, text in enumerate(texts, start=1):
        yield Excerpt(text.encode(errors=_ERRORS), f"TEXT {number}")


def _source(lines: TextIO, name: str, file_format: Format) -> Source:
    if file_format is Format.txt:
        return Source(_from_lines(lines, name))
    csv.field_size_limit(sys.maxsize)  # an excerpt may be a whole book
    reader = csv.DictReader(lines)
    columns = [column.removeprefix("\ufeff") for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    if not columns:
        raise UserError(f"{name}: expected a CSV with a column {EXCERPT_COLUMN!r}, got an empty file.")
    if EXCERPT_COLUMN not in columns:
        raise UserError(f"{name}: expected a column {EXCERPT_COLUMN!r}, got {', '.join(map(repr, columns))}.")
    return Source(_from_csv(reader, name), tuple(columns))


def _from_lines(lines: TextIO, name: str) -> Iterator[Excerpt]:
    for number, line in enumerate(lines, start=1):
        if line.strip("\ufeff\r\n"):
            yield Excerpt(line.strip("\ufeff\r\n").encode(errors=_ERRORS), f"{name}:{number}")


def _from_csv(reader: csv.DictReader[str], name: str) -> Iterator[Excerpt]:
    first_line = reader.line_num + 1
    for row in reader:
        known = {column: row[column] or "" for column in reader.fieldnames or ()}
        yield Excerpt(known[EXCERPT_COLUMN].encode(errors=_ERRORS), f"{name}:{first_line}", known)
        first_line = reader.line_num + 1


@contextmanager
def _tracked(path: Path) -> Iterator[TextIO]:
    from rich.console import Console
    from rich.progress import open as open_with_progress

    console = Console(stderr=True)
    with open_with_progress(
        path,
        "r",
        encoding=_ENCODING,
        errors=_ERRORS,
        newline="",
        description=path.name,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as lines:
        yield lines
