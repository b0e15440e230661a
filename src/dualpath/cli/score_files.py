"""Where excerpts come from, read as a stream, and where their scores go, so that an interrupted run can go on."""

import csv
import errno
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import BinaryIO, cast

from dualpath.errors import UserError
from dualpath.readability.excerpt_tables import EXCERPT_COLUMN, Excerpts, find_excerpts, printable
from dualpath.tables import Format, TableRow, as_text, read_tables

SCORE_COLUMN = "score"


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
        yield find_excerpts(read_tables(sys.stdin.buffer, "stdin", file_format, text_column=EXCERPT_COLUMN))
    else:
        with _tracked(Path(str(file))) as lines:
            yield find_excerpts(read_tables(lines, str(file), file_format, Format.txt, EXCERPT_COLUMN))


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


@contextmanager
def written_to(path: Path | None, resume: bool, quoted: bool) -> Iterator[int]:
    """Let what is printed go to a file; give the number of lines or CSV rows that it holds already, its header too.

    Args:
        resume: keep the whole rows of the file, and cut off what was half written.
        quoted: whether a row may go on after a line break within quotes, as in CSV.
    Raises:
        UserError: there is such a file and `resume` is not asked for, or it cannot be written.
    """
    if path is None:
        yield 0
        return
    if path.is_file() and not resume:
        raise UserError(f"--output {path}: expected a new file, got one that exists. Remove it, or add --resume.")
    try:
        n_rows = _keep_whole_rows(path, quoted) if path.is_file() else 0
        file = path.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--output {path}: expected a file to write, got: {error.strerror}. Name another.") from None
    try:
        with file, redirect_stdout(file):
            yield n_rows
            sys.stdout.flush()
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(path)  # what it is that has no room
        raise


def _keep_whole_rows(path: Path, quoted: bool) -> int:
    """Cut off what follows the last whole row; return how many there are."""
    n_rows, end, at, open_quote = 0, 0, 0, False
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            open_quote ^= quoted and line.count(b'"') % 2 == 1
            if line.endswith(b"\n") and not open_quote:
                n_rows, end = n_rows + 1, at
    with path.open("r+b") as file:
        file.truncate(end)
    return n_rows
