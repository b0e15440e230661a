"""Where scores go: standard output, or a file that a run which was interrupted can go on with."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from dualpath.errors import UserError


@contextmanager
def written_to(path: Path | None, resume: bool, quoted: bool) -> Iterator[int]:
    """Let what is printed go to a file; give the number of lines or CSV rows that it holds already, its header too.

    Args:
        path: the file; None is standard output.
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
