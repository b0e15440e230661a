"""A data set of Parquet, CSV or JSON lines, anywhere that fsspec reads, in partitions of a fixed number of rows."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.excerpt_tables import Excerpts, find_excerpts, printable
from dualpath.tables import TableRow, as_text, open_parquet, parquet_table, read_tables

with needs("scale"):
    import fsspec
    import pyarrow

PARQUET = ".parquet"
READABLE = (PARQUET, ".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Partition:
    """Some rows of one file, in the order of the data set.

    Attributes:
        number: of the partition in the data set, from 0.
        address: the file's, as fsspec takes it.
        first: how many rows of the file come before.
    """

    number: int
    address: str
    first: int
    n_rows: int


@dataclass(frozen=True)
class Rows:
    """The rows of a partition.

    Attributes:
        table: all cells: those of Parquet with their types, those of CSV and JSON lines as text.
        records: the same rows, each with the place where it stands.
        excerpts: what finds and checks the excerpts in them.
    """

    table: pyarrow.Table
    records: list[TableRow]
    excerpts: Excerpts


@dataclass(frozen=True)
class DataSet:
    """All partitions, the columns that the files have together, and the files' sizes in bytes, None if unknown."""

    partitions: tuple[Partition, ...]
    schema: pyarrow.Schema
    sizes: dict[str, int | None]


def plan(address: str, n_rows: int) -> DataSet:
    """Cut a file, or the files of a folder in the order of their names, into partitions.

    Args:
        address: a path, or what fsspec opens, such as s3://bucket/excerpts/.
        n_rows: of a partition; a file's last one may have fewer.
    Raises:
        UserError: nothing is there, no row, no column `excerpt`, or columns that do not go together.
    """
    partitions: list[Partition] = []
    schemas: list[pyarrow.Schema] = []
    sizes: dict[str, int | None] = {}
    for file in _files(address):
        system, path = file_system(file)
        sizes[file] = system.size(path)
        total, schema = _count(file)
        schemas.append(schema)
        for first in range(0, total, n_rows):
            partitions.append(Partition(len(partitions), file, first, min(n_rows, total - first)))
    if not partitions:
        raise UserError(f"{address}: expected at least one excerpt, got none. Add one.")
    try:
        schema = pyarrow.unify_schemas(schemas)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise UserError(
            f"{address}: expected files with the same types of columns, got: {str(error).splitlines()[0].rstrip('.')}. "
            "Score them one by one."
        ) from None
    # A file that lacks a column has empty cells in it.
    schema = pyarrow.schema([field.with_nullable(True) for field in schema])
    return DataSet(tuple(partitions), schema, sizes)


def read_rows(partition: Partition, schema: pyarrow.Schema) -> Rows:
    """Read the rows of a partition.

    Args:
        schema: the columns that the table gets; those that the file lacks are empty.
    Raises:
        UserError: the file cannot be read, or has fewer rows than it had when the job was planned.
    """
    first, n_rows, name = partition.first, partition.n_rows, _name(partition.address)
    with _open(partition.address) as file:
        if _is_parquet(name):
            table = _parquet_rows(open_parquet(file, name), first, n_rows)
            excerpts = _typed_excerpts(table, name, first)
            records = list(excerpts.records)
            table = table.select([field for field in schema.names if field in table.column_names])
        else:
            excerpts = find_excerpts(read_tables(file, name))
            records = list(islice(excerpts.records, first, first + n_rows))
            cells = [printable(it.cells) for it in records]
            table = pyarrow.table({field: [as_text(row.get(field)) for row in cells] for field in schema.names}, schema)
    if len(records) < n_rows:
        raise UserError(
            f"{name}: expected at least {first + n_rows} rows, got {first + len(records)}. "
            "Leave the input as it is until the job has ended, and start it again with another output."
        )
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pyarrow.nulls(len(table), field.type))
    return Rows(table.select(schema.names).cast(schema), records, excerpts)


def file_system(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return what reads and writes at an address, and the path in it, which is absolute.

    Raises:
        UserError: fsspec does not know the address, or a package for it is missing.
    """
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{address}: expected a path or an address that fsspec knows, got: {reason}. Install what it names."
        ) from None
    return system, path.rstrip("/")


def absolute(address: str) -> str:
    """Return an address that means the same in every folder."""
    system, path = file_system(address)
    return str(system.unstrip_protocol(path))


def _files(address: str) -> list[str]:
    system, root = file_system(address)
    try:
        if not system.exists(root):
            raise UserError(f"{address}: expected a file or a folder, got nothing. Look at its name.")
        found = sorted(system.find(root)) if system.isdir(root) else [root]
    except OSError as error:
        raise UserError(f"{address}: expected a file or a folder, got: {error}. Look at its name.") from None
    names = [name for name in found if name.lower().endswith(READABLE)]
    if not names:
        raise UserError(f"{address}: expected files that end in {', '.join(READABLE)}, got none. Name others.")
    if len({_is_parquet(name) for name in names}) > 1:
        raise UserError(f"{address}: expected either Parquet or text files, got both. Score them one by one.")
    return [str(system.unstrip_protocol(name)) for name in names]


def _count(address: str) -> tuple[int, pyarrow.Schema]:
    """Return how many rows a file has, and its columns."""
    name = _name(address)
    with _open(address) as file:
        if _is_parquet(name):
            whole = open_parquet(file, name)
            if whole.metadata.num_rows:  # engines write empty files beside full ones
                _typed_excerpts(_parquet_rows(whole, 0, 1), name, 0)
            return whole.metadata.num_rows, whole.schema_arrow
        excerpts = find_excerpts(read_tables(file, name))
        n_rows, columns = 0, dict.fromkeys(excerpts.columns)
        for it in excerpts.records:
            n_rows += 1
            columns.update(dict.fromkeys(it.cells))
    return n_rows, pyarrow.schema([(column, pyarrow.string()) for column in columns])


@contextmanager
def _open(address: str) -> Iterator[BinaryIO]:
    system, path = file_system(address)
    try:
        file = system.open(path, "rb")
    except OSError as error:
        raise UserError(f"{_name(address)}: expected a file to read, got: {error}. Look at its name.") from None
    with file:
        # What fsspec opens over a network lacks some of the methods of Python's own files, such as `readline(size)`.
        yield file if _is_parquet(path) else io.BufferedReader(file)


def _parquet_rows(file: Any, first: int, n_rows: int) -> pyarrow.Table:
    """Read some rows, and only the row groups that hold them."""
    groups: list[int] = []
    before = start = 0
    for group in range(file.num_row_groups):
        end = before + file.metadata.row_group(group).num_rows
        if before < first + n_rows and end > first:
            start = start if groups else before
            groups.append(group)
        before = end
    return file.read_row_groups(groups).slice(first - start, n_rows)


def _typed_excerpts(table: pyarrow.Table, name: str, first: int) -> Excerpts:
    return find_excerpts([parquet_table(table.column_names, table.to_pylist(), name, first)])


def _name(address: str) -> str:
    """Return an address as people write it."""
    return address.removeprefix("file://")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUET)
