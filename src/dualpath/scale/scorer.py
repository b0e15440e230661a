"""What scores a partition on a node."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.excerpts import InvalidInput
from dualpath.scale.dataset import Partition, Rows, read
from dualpath.scale.output import Output
from dualpath.scale.servers import RowsRefused, Servers, ServersFailed, start_server
from dualpath.serving import ServerFailed

with needs("scale"):
    import pyarrow

ROWS_PER_REQUEST = 32
ROW_COLUMN, WEIGHT_COLUMN, SCORE_COLUMN, REASON_COLUMN = ("source_row", "bert_weight", "score", "reason")
"""The columns that are added; one of the input by the same name gives way."""


@dataclass(frozen=True)
class Work:
    """How the rows of a job are scored, wherever that is done.

    Attributes:
        output: the address of the job's folder.
        schema: the columns of the data set.
        urls: gRPC addresses of running servers; without one, a server is started.
        model_repository: what that server serves.
        weight: BERT_WEIGHT of rows that have none.
        retry_for_s: how long to try a request again that no server takes.
        in_flight: requests under way at the same time from each scorer.
    """

    output: str
    schema: pyarrow.Schema
    urls: tuple[str, ...]
    model_repository: Path
    model: str
    weight: float
    retry_for_s: float
    in_flight: int


@dataclass(frozen=True)
class _Row:
    """A row that a server gets: its number in the partition, where it stands, and what is scored."""

    number: int
    where: str
    excerpt: bytes
    weight: float


class PartitionScorer:
    """Scores partitions and writes their files; Ray keeps one for a node's worth of cores."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score one partition, given as the fields of `Partition`.

        Returns:
            Its number, how many rows have a score and how many have none; or an `error`, which ends the job.
        """
        partition = Partition(**row)
        counts, error = (0, 0), ""
        try:
            counts = self._score(partition)
        except (UserError, ServerFailed, ServersFailed) as failure:
            error = str(failure)
        except (OSError, pyarrow.ArrowException) as failure:
            reason = str(failure).rstrip(".")
            error = f"partition {partition.number} ({partition.address}): expected to read and write it, got: {reason}"
        return {"partition": partition.number, "n_scored": counts[0], "n_rejected": counts[1], "error": error}

    @cached_property
    def _servers(self) -> Servers:
        # Not before the first partition: what a constructor raises, Ray tries again for ever.
        work = self._work
        urls = work.urls or (start_server(work.model_repository),)
        return Servers(urls, work.model, work.retry_for_s, work.in_flight)

    def _score(self, partition: Partition) -> tuple[int, int]:
        rows = read(partition, self._work.schema)
        valid: list[_Row] = []
        reasons: dict[int, str] = {}
        for number, record in enumerate(rows.records):
            try:
                valid.append(_Row(number, record.where, *rows.excerpts.check(record, self._work.weight)))
            except InvalidInput as error:
                reasons[number] = str(error)
        requests = [valid[start : start + ROWS_PER_REQUEST] for start in range(0, len(valid), ROWS_PER_REQUEST)]
        scored: list[tuple[_Row, float]] = []
        with ThreadPoolExecutor(self._servers.in_flight) as threads:
            for answers in threads.map(lambda some: list(self._ask(some)), requests):
                for it, answer in answers:
                    if isinstance(answer, str):
                        reasons[it.number] = answer
                    else:
                        scored.append((it, answer))
        Output(self._work.output).write(partition, _scores(rows, scored), _rejected(rows, reasons))
        return len(scored), len(reasons)

    def _ask(self, some: Sequence[_Row]) -> Iterator[tuple[_Row, float | str]]:
        """Give the score of each row, or the reason why it has none."""
        try:
            weights = np.array([it.weight for it in some], np.float32)
            for it, score in zip(some, self._servers.score([it.excerpt for it in some], weights), strict=True):
                yield (
                    it,
                    float(score)
                    if math.isfinite(score)
                    else f"{it.where}: expected a finite score, got {score}. Train the model.",
                )
        except RowsRefused as error:
            if len(some) == 1:
                yield some[0], f"{some[0].where}: {error}"
            else:  # one row has failed them all
                for it in some:
                    yield from self._ask([it])


def _scores(rows: Rows, scored: Sequence[tuple[_Row, float]]) -> pyarrow.Table:
    return _with(
        rows.table,
        [it.number for it, _ in scored],
        {
            ROW_COLUMN: pyarrow.array([it.where for it, _ in scored], pyarrow.string()),
            WEIGHT_COLUMN: pyarrow.array([it.weight for it, _ in scored], pyarrow.float64()),
            SCORE_COLUMN: pyarrow.array([score for _, score in scored], pyarrow.float32()),
        },
    )


def _rejected(rows: Rows, reasons: dict[int, str]) -> pyarrow.Table:
    numbers = sorted(reasons)
    return _with(
        rows.table,
        numbers,
        {
            ROW_COLUMN: pyarrow.array([rows.records[number].where for number in numbers], pyarrow.string()),
            REASON_COLUMN: pyarrow.array([reasons[number] for number in numbers], pyarrow.string()),
        },
    )


def _with(table: pyarrow.Table, numbers: Sequence[int], columns: dict[str, Any]) -> pyarrow.Table:
    """Return the rows of these numbers with further columns."""
    table = table.take(pyarrow.array(numbers, pyarrow.int64()))
    table = table.select([name for name in table.column_names if name not in columns])
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
