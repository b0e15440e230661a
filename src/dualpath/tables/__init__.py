"""Read rows, one at a time, from CSV, JSON lines, lines of text, Parquet and spreadsheets."""

from dualpath.tables.read import open_parquet, open_tables, parquet_table, read_tables
from dualpath.tables.table import TOO_MUCH, Format, Table, TableRow, as_text, bad_byte, shown

__all__ = [
    "TOO_MUCH",
    "Format",
    "Table",
    "TableRow",
    "as_text",
    "bad_byte",
    "open_parquet",
    "open_tables",
    "parquet_table",
    "read_tables",
    "shown",
]
