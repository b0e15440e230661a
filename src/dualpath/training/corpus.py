"""Rated excerpts: a CSV file in the layout of CLEAR."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.readability.features import holds_word


@dataclass(frozen=True)
class Corpus:
    """Excerpts with their ratings; rows of one group come from one source."""

    excerpts: list[bytes]
    targets: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """Count the distinct sources."""
        return len(set(self.groups.tolist()))


def read_corpus(path: Path) -> Corpus:
    """Read the columns `excerpt`, `target` and, where present, `url_legal`; others are ignored.

    Excerpts with the same URL, its fragment aside, form a group; one without a URL is a group of its own.

    Raises:
        UserError: the file cannot be read, a column is missing, or a line has no text or no finite target.
    """
    excerpts: list[bytes] = []
    targets: list[float] = []
    groups: list[int] = []
    group_of: dict[str, int] = {}
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in ("excerpt", "target") if column not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "an empty file"
                raise UserError(f"{path}, line 1: expected the column {' and '.join(missing)}, found {found}.")
            line = reader.line_num + 1
            for row in reader:
                excerpts.append(_excerpt(row["excerpt"], path, line))
                targets.append(_target(row["target"], path, line))
                url = urldefrag((row.get("url_legal") or "").strip()).url
                groups.append(group_of.setdefault(url or f"line {line}", len(group_of)))
                line = reader.line_num + 1
    except OSError as error:
        raise UserError(f"{path}: expected a readable CSV file, found: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x}.") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: expected CSV, found: {error}.") from error
    return Corpus(excerpts, np.array(targets, np.float32), np.array(groups, np.int64))


def _excerpt(text: str | None, path: Path, line: int) -> bytes:
    excerpt = (text or "").encode()
    if not holds_word(excerpt):
        raise UserError(
            f"{path}, line {line}: expected an excerpt with at least one word, found {(text or '')[:20]!r}."
        )
    return excerpt


def _target(text: str | None, path: Path, line: int) -> float:
    try:
        target = float(text or "")
    except ValueError:
        target = math.nan
    if not math.isfinite(target):
        raise UserError(f"{path}, line {line}: expected a number as target, found {(text or '')[:20]!r}.")
    return target
