"""Find the excerpts and their weights in a table, and check them row by row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from dualpath.errors import UserError
from dualpath.tables import Format, Table, TableRow, as_text, shown

EXCERPT_COLUMN = "excerpt"
WEIGHT_COLUMN = "bert_weight"


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
        # Imported late: the command line starts without NumPy.
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


def find_excerpts(tables: list[Table]) -> Excerpts:
    """Take the first sheet that has excerpts.

    Raises:
        UserError: none has a column `excerpt`, or it has no rows.
    """
    for table in tables:
        names = {column.strip().lower(): column for column in reversed(table.columns)}
        if EXCERPT_COLUMN in names or not (table.columns or len(tables) > 1):
            if (first := next(table.records, None)) is None:
                raise UserError(f"{table.name}: expected at least one excerpt, got none. Add one.")
            excerpt, weight = (names.get(column, column) for column in (EXCERPT_COLUMN, WEIGHT_COLUMN))
            columns = table.columns if table.format is not Format.txt else ()
            return Excerpts(chain([first], table.records), columns, table.format, excerpt, weight)
    table = tables[0]
    found = ", ".join(map(repr, table.columns)) or "none"
    raise UserError(
        f"{table.name}: expected a column {EXCERPT_COLUMN!r}, got {found}. Rename one, or give --format txt."
    )


def printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's cells with a replacement character for each byte that is not UTF-8."""
    return {
        name: value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else value
        for name, value in row.items()
    }
