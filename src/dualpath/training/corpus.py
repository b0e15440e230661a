"""Rated excerpts, of the Readability Prize's layout or of the CLEAR corpus', and their folds by source."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.readability.features import holds_word
from dualpath.tables import Format, Table, TableRow, bad_byte, open_tables

COLUMNS = {
    "excerpt": ("excerpt", "Excerpt"),
    "target": ("target", "BT Easiness", "BT_easiness"),
    "url": ("url_legal", "URL"),
    "author": ("author", "Author"),
}
"""What a column holds: its names in train.csv of the CommonLit Readability Prize and in the CLEAR corpus."""
NEEDED = ("excerpt", "target")
NOBODY = frozenset(("", "?", "-", "n/a", "na", "nan", "none", "anonymous", "anon", "unknown", "various"))
"""What stands in place of an author or an address that is not known, in lower case."""
MOST_NAMED = 10
N_FOLDS = 5

Keys = list[tuple[str, str]]


@dataclass(frozen=True)
class Corpus:
    """Excerpts with their ratings.

    Attributes:
        excerpts: UTF-8, each with a word.
        targets: float32 [rows], finite; higher is easier.
        groups: int64 [rows], counted from 0 as they first occur; rows of one group come from one source.
    """

    excerpts: list[bytes]
    targets: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """Count the distinct sources."""
        return len(set(self.groups.tolist()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of excerpts, targets and groups in their order: equal data in another file has the same."""
        texts = b"".join(hashlib.sha256(excerpt).digest() for excerpt in self.excerpts)
        return hashlib.sha256(texts + self.targets.tobytes() + self.groups.tobytes()).hexdigest()


def read_corpus(path: Path, n_folds: int = N_FOLDS) -> Corpus:
    """Read rated excerpts from a CSV file (UTF-8) or an .xlsx spreadsheet, and there from the first sheet that has any.

    Columns that are not COLUMNS are ignored, and so are rows without anything in them.

    Rows that share an author, or a URL aside from its fragment, form a group, and so do those that are linked by other
    rows; one with neither is a group of its own.

    A row repeats another if the text is the same to the byte, or the same but for white space with the same target.
    The second of two that differ in both was rated by itself (CLEAR has such a pair): it joins the first one's group.

    Args:
        n_folds: how many groups there must be at least.
    Raises:
        UserError: the file cannot be read, a column is missing, or rows cannot be used: no text, no finite target, a
            repeated row, too few groups. All of them are counted, the first ten named by line.
    """
    with open_tables(path, Format.csv) as tables:
        table = next((table for table in tables if all(map(_found(table).get, NEEDED))), tables[0])
        reader = _Reader(_columns(table), table.unit)
        for record in table.records:
            reader.add(record)
    groups = _linked(reader.keys)
    n_groups = len(set(groups))
    faults = reader.faults
    if n_groups < n_folds:
        rows = f"{len(groups)} {'row' if len(groups) == 1 else 'rows'}"
        faults.append(
            f"expected excerpts of at least {n_folds} sources, one for each fold, got {rows} of {n_groups}. Add rows."
        )
    if faults:
        raise UserError(_listed(path, faults))
    return Corpus(reader.excerpts, np.array(reader.targets, np.float32), np.array(groups, np.int64))


def _plain(name: str) -> str:
    return " ".join(name.split())


def _found(table: Table) -> dict[str, list[str]]:
    """Return the table's columns for each of COLUMNS."""
    return {column: [name for name in table.columns if _plain(name) in known] for column, known in COLUMNS.items()}


def _columns(table: Table) -> dict[str, str]:
    """Find the columns by their names: what each holds -> its name in the table."""
    where, found = f"{table.name}, {table.unit} {table.header_line}", _found(table)
    if missing := [column for column in NEEDED if not found[column]]:
        expected = " and a column ".join(" or ".join(map(repr, COLUMNS[column])) for column in missing)
        got = ", ".join(map(repr, filter(None, map(_plain, table.columns)))) or "an empty file"
        raise UserError(f"{where}: expected a column {expected}, got {got}. Add it.")
    for column, names in found.items():
        if len(names) > 1:
            twice = " and ".join(map(_plain, names))
            raise UserError(f"{where}: expected one column with the {column}, got {twice}. Rename the others.")
    return {column: names[0] for column, names in found.items() if names}


class _Reader:
    """Collects the rows that can be used, and what is wrong with the others."""

    def __init__(self, columns: dict[str, str], unit: str) -> None:
        self.excerpts: list[bytes] = []
        self.targets: list[float] = []
        self.keys: list[Keys] = []
        self.faults: list[str] = []
        self._columns, self._unit = columns, unit
        self._seen: dict[bytes | str, tuple[int, float]] = {}
        """A row's text, as it is and with single spaces: the first such row's line and target."""

    def add(self, record: TableRow) -> None:
        """Take a row, or note its faults."""
        cells = {column: record.text(name) for column, name in self._columns.items()}
        text, rating = cells.get("excerpt", ""), cells.get("target", "")
        excerpt, target = text.encode(errors="replace"), _number(rating)
        spaced = " ".join(text.split())
        fault = record.fault.rstrip(".")
        if byte := bad_byte(text):
            fault = f"expected UTF-8 text, got byte {byte}. Save the file as UTF-8"
        faults = [fault] if fault else list(self._wrong(excerpt, spaced, target, rating))
        for key in (excerpt, spaced):
            self._seen.setdefault(key, (record.line, target))
        if faults:
            self.faults.append(f"{self._unit} {record.line}: {'; '.join(faults)}.")
            return
        self.excerpts.append(excerpt)
        self.targets.append(target)
        sources = [("url", cells.get("url", "").partition("#")[0]), ("author", cells.get("author", ""))]
        known = [(kind, name) for kind, cell in sources if (name := " ".join(cell.split()).casefold()) not in NOBODY]
        self.keys.append([*known, ("text", spaced)])

    def _wrong(self, excerpt: bytes, spaced: str, target: float, rating: str) -> Iterator[str]:
        if not holds_word(excerpt):
            yield f"expected an excerpt with at least one word, got {excerpt[:20].decode(errors='ignore')!r}"
        elif (line := self._repeated(excerpt, spaced, target)) is not None:
            yield f"expected a text of its own, got a duplicate of {self._unit} {line}"
        if math.isnan(target):
            yield f"expected a number as target, got {rating[:20]!r}"

    def _repeated(self, excerpt: bytes, spaced: str, target: float) -> int | None:
        if excerpt in self._seen:
            return self._seen[excerpt][0]
        line, of = self._seen.get(spaced, (None, math.nan))
        return line if of == target else None


def _number(text: str) -> float:
    """Return a finite number within float32's range, or NaN."""
    try:
        number = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= np.finfo(np.float32).max else math.nan


def _linked(keys: Iterable[Keys]) -> list[int]:
    """Number the groups of rows that are linked by common keys, in the order in which they begin."""
    parent: list[int] = []
    first: dict[tuple[str, str], int] = {}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for row, of_row in enumerate(keys):
        parent.append(row)
        for key in of_row:
            one, other = root(first.setdefault(key, row)), root(row)
            parent[max(one, other)] = min(one, other)
    number: dict[int, int] = {}
    return [number.setdefault(root(row), len(number)) for row in range(len(parent))]


def _listed(path: Path, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{path}, {faults[0]}"
    more = [f"and {len(faults) - MOST_NAMED} more."] if len(faults) > MOST_NAMED else []
    named = "\n".join(f"  {line}" for line in (*faults[:MOST_NAMED], *more))
    return f"{path}: expected rows that can be used, got {len(faults)} faults. Correct or remove these rows:\n{named}"


@dataclass(frozen=True)
class Fold:
    """Rows to fit on and rows to score, both int64 [rows] in ascending order, without a row or a group in common."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def split(corpus: Corpus, n_folds: int = N_FOLDS, seed: int = 0) -> list[Fold]:
    """Split a corpus so that each row is scored once, with no row of its group among those fitted on.

    The largest groups are dealt out first, each to the fold with the fewest rows: folds differ by no more rows than the
    corpus' largest group has. Groups of one size, and folds of one size, are taken in an order drawn by `seed`.

    Raises:
        UserError: fewer than two folds, or fewer groups than folds.
    """
    if n_folds < 2:
        raise UserError(f"folds: expected 2 or more, got {n_folds}. Ask for more.")
    if corpus.n_groups < n_folds:
        raise UserError(
            f"{n_folds} folds: expected at least as many sources of excerpts, got {corpus.n_groups}. "
            "Ask for fewer folds."
        )
    generator = np.random.default_rng(seed)
    _, group_of, sizes = np.unique(corpus.groups, return_inverse=True, return_counts=True)
    dealt = generator.permutation(len(sizes))
    fold_of = np.empty(len(sizes), np.int64)
    n_rows = np.zeros(n_folds, np.int64)
    for group in dealt[np.argsort(-sizes[dealt], kind="stable")]:
        fold_of[group] = generator.choice(np.flatnonzero(n_rows == n_rows.min()))
        n_rows[fold_of[group]] += sizes[group]
    row_fold = fold_of[group_of]
    return [Fold(np.flatnonzero(row_fold != fold), np.flatnonzero(row_fold == fold)) for fold in range(n_folds)]
