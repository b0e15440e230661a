"""The physical limit: the same closed loop in process, with the same artifacts and all cores, and no server between."""

import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from dualpath.compare.load import Turn, answers_per_s


@dataclass(frozen=True)
class Plan:
    """One way to use the cores: so many processes with so many threads for BERT, and rows that BERT takes at a time."""

    processes: int
    threads: int
    chunk_rows: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} threads, chunks of {self.chunk_rows}"


class _Row(NamedTuple):
    excerpt: int
    since: float
    slot: int


class Limit:
    """Worker processes that score rows, each chunk sorted by length and padded to its longest row's bucket."""

    def __init__(self, model_repository: Path, plan: Plan) -> None:
        self._plan = plan
        self._workers: list[Connection] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for _ in range(plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(model_repository, plan, theirs), daemon=True)
            process.start()
            self._workers.append(ours)
            self._processes.append(process)
        for worker in self._workers:
            worker.recv()  # loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker, process in zip(self._workers, self._processes, strict=True):
            worker.send(None)
            process.join()

    def run_turn(
        self, excerpts: Sequence[bytes], weights: Sequence[float], visible_rows: int, duration_s: float, skip: int = 0
    ) -> Turn:
        """Score excerpts round and round, `visible_rows` at a time: a new one enters when one is answered."""
        numbers = itertools.count(skip)
        turn = Turn(0.0, 0, 0, {str(weight): [] for weight in weights})
        started, begin = time.perf_counter(), math.inf
        answers: list[tuple[float, float]] = []
        last = [0.0] * visible_rows  # by place, when a row in it was answered last
        free, visible = list(range(visible_rows)), list[_Row]()
        idle, busy = list(self._workers), dict[Connection, list[_Row]]()
        while True:
            now = time.perf_counter()
            while free and now < begin + duration_s:
                visible.append(_Row(next(numbers) % len(excerpts), now, free.pop()))
            while idle and visible:
                chunk = self._choose(visible, excerpts, weights)
                worker = idle.pop()
                worker.send([(excerpts[row.excerpt], weights[row.excerpt % len(weights)]) for row in chunk])
                busy[worker] = chunk
            if not busy:
                break
            ready = wait(list(busy))
            for worker in [worker for worker in busy if worker in ready]:
                worker.recv()
                now = time.perf_counter()
                for row in busy.pop(worker):
                    turn.latencies_ms[str(weights[row.excerpt % len(weights)])].append((now - row.since) * 1e3)
                    turn.n_rows += 1
                    # Each place's first row met idle workers: it does not count.
                    answers += [(row.since, now)] * (last[row.slot] > 0)
                    last[row.slot] = now
                    free.append(row.slot)
                if begin == math.inf and all(last):
                    begin = now
                idle.append(worker)
        rate = answers_per_s(answers, begin, min(last))
        turn.elapsed_s = turn.n_rows / rate if rate else time.perf_counter() - started
        return turn

    def _choose(self, visible: list[_Row], excerpts: Sequence[bytes], weights: Sequence[float]) -> list[_Row]:
        """Take rows without BERT all at once; else the oldest row and those nearest to it in length."""
        light = [row for row in visible if weights[row.excerpt % len(weights)] == 0]
        oldest = len(excerpts[visible[0].excerpt])
        chunk = (
            light or sorted(visible, key=lambda row: abs(len(excerpts[row.excerpt]) - oldest))[: self._plan.chunk_rows]
        )
        for row in chunk:
            visible.remove(row)
        return chunk


def plans() -> list[Plan]:
    """The ways worth trying on this machine's cores."""
    n_cores = len(os.sched_getaffinity(0))
    one_thread = [Plan(n_cores, 1, rows) for rows in (1, 2, 4, 8)]
    return [*one_thread, Plan(1, n_cores, 4), Plan(1, n_cores, 16), Plan(1, 1, 1)]


def _work(model_repository: Path, plan: Plan, connection: Connection) -> None:
    from dualpath.readability.reference import Reference

    reference = Reference(model_repository, plan.threads, plan.chunk_rows)
    connection.send("loaded")
    while (rows := connection.recv()) is not None:
        excerpts, weights = zip(*rows, strict=True)
        connection.send(reference.score(excerpts, np.array(weights, np.float32)))
