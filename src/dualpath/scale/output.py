"""The folder that the scores of a data set are written to.

A partition is done if its file is there. Files appear whole or not at all, so a job that stops at any moment leaves
nothing to clean up, and the same job goes on with the partitions that are missing.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository.folders import alone_in
from dualpath.scale.dataset import Partition, file_system

with needs("scale"):
    import pyarrow
    from pyarrow import parquet

SCORES, REJECTED, JOB, LOCK = "scores", "rejected", "job.json", ".lock"


class Output:
    """The folder of a job: `scores/part-00000.parquet` and so on, `rejected/` with the rows that have none, `job.json`.

    Args:
        address: a path, or what fsspec writes to.
    """

    def __init__(self, address: str) -> None:
        self.address = address.removeprefix("file://")
        self._system, self._root = file_system(address)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other jobs out while the block runs: on a local disk alone, since object stores have no locks.

        Raises:
            UserError: another job is in such a block with this folder, or it cannot be made.
        """
        with ExitStack() as stack:
            try:
                if "file" in self._system.protocol:
                    self._system.makedirs(self._root, exist_ok=True)
                    (lock := Path(self._root) / LOCK).touch()
                    stack.enter_context(alone_in(lock))
            except BlockingIOError:
                raise UserError(
                    f"--output {self.address}: expected a folder of its own, got one that another job writes to. "
                    "Wait until it has ended, or name another."
                ) from None
            except OSError as error:
                raise self._unwritable(error) from None
            yield

    def begin(self, job: Mapping[str, Any], partitions: Sequence[Partition], resume: bool) -> list[Partition]:
        """Write down what the job is, and return the partitions that are not done yet.

        Raises:
            UserError: the folder holds a job that is not to be resumed, another one, or files that are no job's.
        """
        described = {**job, "partitions": [asdict(partition) for partition in partitions]}
        path = f"{self._root}/{JOB}"
        try:
            if self._system.exists(path):
                self._check_same(self._system.cat_file(path), described, resume)
            elif self._system.exists(self._root) and {*self._names(self._root)} - {LOCK}:
                raise UserError(
                    f"--output {self.address}: expected an empty folder or one of an earlier job, got other files. "
                    "Name another."
                )
            else:
                self._put(path, json.dumps(described, indent=1).encode())
            folder = f"{self._root}/{SCORES}"
            done = set(self._names(folder)) if self._system.exists(folder) else set()
        except OSError as error:
            raise self._unwritable(error) from None
        return [partition for partition in partitions if _name(partition.number) not in done]

    def write(self, partition: Partition, scored: pyarrow.Table, rejected: pyarrow.Table) -> None:
        """Write the tables of a partition, the one that says that it is done last."""
        path = f"{self._root}/{REJECTED}/{_name(partition.number)}"
        if len(rejected):
            self._put(path, _parquet(rejected))
        elif self._system.exists(path):  # of an attempt that was stopped, in which rows failed that now have scores
            self._system.rm_file(path)
        self._put(f"{self._root}/{SCORES}/{_name(partition.number)}", _parquet(scored))

    def n_rejected(self, partitions: Iterable[Partition]) -> int:
        """Return how many rows of these partitions, which are done, have no score."""
        paths = [f"{self._root}/{REJECTED}/{_name(partition.number)}" for partition in partitions]
        n_rows = 0
        for path in filter(self._system.exists, paths):
            try:
                with self._system.open(path, "rb") as file:
                    n_rows += parquet.ParquetFile(file).metadata.num_rows
            except (OSError, pyarrow.ArrowException) as error:
                raise UserError(f"{path}: expected the rows without a score, got: {error}. Remove the file.") from None
        return n_rows

    def _names(self, folder: str) -> list[str]:
        return [name.rsplit("/", 1)[-1] for name in self._system.ls(folder, detail=False)]

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"--output {self.address}: expected a folder to write to, got: {error}. Name another.")

    def _check_same(self, written: bytes, described: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                f"--output {self.address}: expected a new folder, got one of an earlier job. "
                "Name another, or add --resume."
            )
        try:
            found = dict(json.loads(written))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"--resume {self.address}: expected a job in {JOB}, got no such JSON: {error}. Name another output."
            ) from None
        different = [key for key in described if found.get(key) != described[key]]
        if different:
            raise UserError(
                f"--resume {self.address}: expected the same job, got one with other {', '.join(different)}. "
                "Name another output."
            )

    def _put(self, path: str, data: bytes) -> None:
        folder = path.rsplit("/", 1)[0]
        self._system.makedirs(folder, exist_ok=True)
        # A file is renamed into its place; an object store shows an object only once it is whole.
        temporary = f"{folder}/.{uuid.uuid4().hex}"
        try:
            self._system.pipe_file(temporary, data)
            self._system.mv(temporary, path)
        except BaseException:
            if self._system.exists(temporary):
                self._system.rm_file(temporary)
            raise


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _parquet(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())
