"""What scores a partition on a node, by servers that are running or by one that is started for it."""

from __future__ import annotations

import json
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.combine import Scores
from dualpath.readability.excerpts import InvalidInput
from dualpath.scale import node_server
from dualpath.scale.dataset import Partition, Rows, read_rows
from dualpath.scale.output import Output
from dualpath.serving import ServerFailed
from dualpath.serving.client import Scorer, connect, open_client

with needs("scale"):
    import pyarrow
    from tritonclient.utils import InferenceServerException

_ROWS_PER_REQUEST = 32
ROW_COLUMN, WEIGHT_COLUMN, SCORE_COLUMN, REASON_COLUMN = ("source_row", "bert_weight", "score", "reason")
"""The columns that are added; one of the input by the same name gives way."""

CALL_TIMEOUT_S = 300.0
REST_S = 2.0
"""How long a server that has failed gets no request: one that is gone fails faster than the others answer."""
_REFUSED = "StatusCode.INVALID_ARGUMENT"
"""What says something against the rows. After all else they are tried again: scoring changes nothing on a server."""


@dataclass(frozen=True)
class _Row:
    """A row that a server gets: its number in the partition, where it stands, and what is scored."""

    number: int
    where: str
    excerpt: bytes
    weight: float


@dataclass
class PartitionScorer:
    """Scores partitions and writes their files; Ray keeps one for a node's worth of cores.

    Attributes:
        output: the address of the job's folder.
        schema: the columns of the data set.
        urls: gRPC addresses of running servers; without one, a server is started, which serves `model_repository`.
        weight: BERT_WEIGHT of rows that have none.
        retry_for_s: how long to try a request again that no server takes.
        in_flight: requests under way at the same time from each scorer.
    """

    output: str
    schema: pyarrow.Schema
    urls: Sequence[str]
    model_repository: Path
    model: str
    weight: float
    retry_for_s: float
    in_flight: int

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
        urls = self.urls or [start_server(self.model_repository)]
        return Servers(urls, self.model, self.retry_for_s, self.in_flight)

    def _score(self, partition: Partition) -> tuple[int, int]:
        rows = read_rows(partition, self.schema)
        valid: list[_Row] = []
        reasons: dict[int, str] = {}
        for number, record in enumerate(rows.records):
            try:
                valid.append(_Row(number, record.where, *rows.excerpts.check(record, self.weight)))
            except InvalidInput as error:
                reasons[number] = str(error)
        requests = [valid[start : start + _ROWS_PER_REQUEST] for start in range(0, len(valid), _ROWS_PER_REQUEST)]
        scored: list[tuple[_Row, float]] = []
        with ThreadPoolExecutor(self._servers.in_flight) as threads:
            for answers in threads.map(lambda some: list(self._ask(some)), requests):
                for it, answer in answers:
                    if isinstance(answer, str):
                        reasons[it.number] = answer
                    else:
                        scored.append((it, answer))
        Output(self.output).write(partition, _scores(rows, scored), _rejected(rows, reasons))
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


class RowsRefused(Exception):
    """A server does not take a request; another one would not either. The message is the server's."""


class ServersFailed(Exception):
    """No server has answered a request for as long as it was tried. The message is the last one's."""


class Servers:
    """Some servers of one model, which share the requests and stand in for each other. Safe to use from threads.

    Args:
        urls: gRPC addresses.
        retry_for_s: how long to try a request again.
        in_flight: how many requests are under way at the same time, on all servers together.
    Raises:
        UserError: nothing answers at any of the addresses.
    """

    def __init__(self, urls: Sequence[str], model: str, retry_for_s: float, in_flight: int) -> None:
        self.in_flight = in_flight
        self._model = model
        self._retry_for_s = retry_for_s
        self._free: queue.SimpleQueue[Scorer] = queue.SimpleQueue()
        failures = []
        for url in urls:
            try:
                connect(url).close()
                break
            except UserError as error:
                failures.append(error)
        else:
            raise failures[0]
        for i in range(max(in_flight, len(urls))):
            self._free.put(Scorer(open_client(urls[i % len(urls)]), model))

    def score(self, excerpts: Sequence[bytes], weights: Scores) -> Scores:
        """Score UTF-8 excerpts in one request: float32 [rows].

        Raises:
            RowsRefused: the request is wrong.
            ServersFailed: no server has answered.
        """
        # From the first failure: a server that hangs must not use up the time of the others.
        deadline: float | None = None
        while True:
            scorer = self._free.get()
            try:
                scores = scorer.score(excerpts, weights, client_timeout=CALL_TIMEOUT_S)
            except InferenceServerException as error:
                reason = " ".join(str(error.message()).split())
                if error.status() == _REFUSED:
                    self._free.put(scorer)
                    raise RowsRefused(reason) from None
                back = threading.Timer(REST_S, self._free.put, (scorer,))
                back.daemon = True
                back.start()
                deadline = deadline or time.monotonic() + self._retry_for_s
                if time.monotonic() > deadline:
                    raise ServersFailed(
                        f"{self._model}: expected scores, got failures for {self._retry_for_s:g} s, the last: {reason}"
                    ) from None
            else:
                self._free.put(scorer)
                return scores


_started: list[subprocess.Popen[str]] = []
"""Whose pipes must stay open."""


def start_server(model_repository: Path) -> str:
    """Start a server on free ports, watched, for as long as this process lives; return its gRPC address.

    Raises:
        ServerFailed: it does not start.
    """
    # Not as a child: Ray kills those of a worker that ends, and Triton would stay behind. A pipe tells it to end.
    command = ["setsid", "--fork", sys.executable, "-m", node_server.__name__, str(model_repository)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _started.append(process)
    assert process.stdout is not None
    line = process.stdout.readline()
    said = json.loads(line) if line else {"error": f"{model_repository}: expected a server, got one that ended at once"}
    if "error" in said:
        raise ServerFailed(said["error"])
    return str(said["url"])
