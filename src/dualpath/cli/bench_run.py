"""A run of `dualpath bench`: the set-ups on their servers, and what is measured."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from dualpath.cli.bench_servers import Place
from dualpath.cli.compare_view import View, live
from dualpath.cli.comparison import Server
from dualpath.compare import breakdown, environment, parity, verdict
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender, Turn
from dualpath.compare.result import Load, Process, Result
from dualpath.compare.run import Order, Plan, measure, on_server
from dualpath.compare.setups import BERT_WEIGHT, InClient, InTriton, Score, Setup, batches, headline, too_slow
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, SCORE, TOLERANCES

if TYPE_CHECKING:
    from rich.console import Console

N_COMPARED = 32
"""Inputs that all set-ups answer before the load, each in a request of its own."""


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        model: the one that is asked where everything is in Triton.

    Raises:
        UserError: a row does not hold exactly one excerpt.
    """

    rows: Sequence[Row]
    source: str
    loads: Sequence[Load]
    plan: Plan
    model: str

    def __post_init__(self) -> None:
        for row in self.rows:
            _excerpt(row)


class Bench:
    """The set-ups on their servers, ready to run into `result`."""

    def __init__(self, asked: Asked, places: Sequence[Place]) -> None:
        self._asked, self._places = asked, places
        self._excerpts = [_excerpt(row) for row in asked.rows]
        self._setups: dict[str, Setup] = {}
        self._absent: dict[str, str] = {}
        self._families: list[list[str]] = []  # names of each place's set-ups
        for place in places:
            self._add(place, f", {place.precision}" if len(places) > 1 else "")
        self._now = breakdown.Asked()  # the rows of the turn that runs
        self._servers = [server for place in places for server in (place.cpu, place.gpu) if server]
        self.result = Result(
            title=f"Set-ups of the pipeline, {places[0].encoder}",
            contenders=[*self._setups, *self._absent],
            command=shlex.join(["dualpath", *sys.argv[1:]]),
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            environment=self._environment(),
            notes=self._notes(),
        )
        self._recorders = {server.url: self._recorder(server) for server in self._servers}

    def run(self, console: Console) -> None:
        """Hold the set-ups' answers against each other, measure them, and see where the time goes; once.

        On Ctrl-C the result holds what was found until then, and KeyboardInterrupt goes on.
        """
        with ExitStack() as stack:
            for recorder in self._recorders.values():
                stack.enter_context(closing(recorder))
            try:
                with live(console) as view:
                    families = zip(self._places, self._families, strict=True)
                    if all(self._compare_answers(place, family, view) for place, family in families):
                        self._measure(view)
            except KeyboardInterrupt:
                self._break_down()
                raise
            finally:
                self.result.verdict = f"{headline(self.result)} {verdict.sentence(self.result)}".strip()
            self._break_down()
        if not self._gone():
            self._trace()

    def _add(self, place: Place, suffix: str) -> None:
        inner, device = (place.gpu, "GPU") if place.gpu else (place.cpu, "CPU")
        all_cpu, client, all_gpu = (
            f"{name}{suffix}" for name in ("all in Triton, CPU", f"client + models on {device}", "all in Triton, GPU")
        )
        self._setups[all_cpu] = InTriton(all_cpu, place.cpu.url, self._asked.model)
        self._setups[client] = InClient.of(client, inner.url, place.repository)
        family = [all_cpu, client]
        if place.gpu:
            self._setups[all_gpu] = InTriton(all_gpu, place.gpu.url, self._asked.model)
            family.append(all_gpu)
        else:
            self._absent[all_gpu] = place.why_no_gpu
        self._families.append(family)

    def _compare_answers(self, place: Place, family: Sequence[str], view: View) -> bool:
        """Hold the set-ups of one encoder against its first; say whether the servers are still there."""
        atol = TOLERANCES.get(place.precision, max(TOLERANCES.values()))
        rows = self._asked.rows[:N_COMPARED]
        baseline, *others = family
        for other in others:
            part = replace(self.result, contenders=[baseline, other])  # its lists are the result's own
            try:
                there = parity.check(
                    part,
                    other,
                    rows,
                    partial(_both, self._setups[baseline], self._setups[other], self._asked.plan.timeout_s),
                    [SCORE.name],
                    atol,
                    gone=self._gone,
                    on_row=lambda number: view.parity(number, len(rows)),
                )
            finally:
                self.result.failed |= part.failed
            if not there:
                return False
        return True

    def _measure(self, view: View) -> None:
        rng = np.random.default_rng(self._asked.plan.seed)
        shuffled = [self._excerpts[index] for index in rng.permutation(len(self._excerpts))]
        measure_turn = on_server("", self._asked.plan.timeout_s)  # set-ups know their own server

        @cache
        def contender(name: str, batch: int) -> Contender:
            return self._setups[name].contender(batches(shuffled, batch))

        def make(name: str, load: Load) -> Contender | str:
            absent = self._absent.get(name) or too_slow(self.result.cells, name, load)
            return absent or contender(name, load.batch)

        def counted(order: Order) -> Turn:
            turn = measure_turn(order)
            n_clients = order.load.concurrency or 1
            self._now.n_rows += turn.n_rows + order.load.batch * n_clients * (order.warm_up or n_clients > 1)
            return turn

        measure(
            self.result,
            self._asked.loads,
            make,
            counted,
            self._asked.plan,
            around=self._around,
            gone=self._gone,
            on_progress=view.load,
        )

    @contextmanager
    def _around(self, name: str) -> Iterator[None]:
        with self._recorders[self._setups[name].url].turn(name) as self._now:
            yield

    def _recorder(self, server: Server) -> breakdown.Recorder:
        assert server.own is not None
        models = {
            name: (setup.model, "")
            for name, setup in self._setups.items()
            if isinstance(setup, InTriton) and setup.url == server.url
        }
        return breakdown.Recorder(server.url, models, server.own.metrics_url, server.own.pid)

    def _break_down(self) -> None:
        client = Process("client", os.getpid(), 0.0, 0.0)
        for server in self._servers:
            recorder = self._recorders[server.url]
            self.result.steps += recorder.steps()
            self.result.stages += recorder.stages()
            self.result.notes += recorder.notes
            for process in recorder.processes():
                if process.pid == client.pid:  # each recorder has its part
                    cpu_s, rss_mb = client.cpu_s + process.cpu_s, max(client.rss_mb, process.rss_mb)
                    client = replace(client, cpu_s=cpu_s, rss_mb=rss_mb)
                else:
                    self.result.processes.append(replace(process, name=f"{process.name}{self._label(server)}"))
        self.result.processes.append(client)

    def _label(self, server: Server) -> str:
        """Tell the processes of several servers apart."""
        if len(self._servers) == 1:
            return ""
        device = " on the GPU" if server in [place.gpu for place in self._places] else ""
        return f" ({server.precision}{device})"

    def _trace(self) -> None:
        for name, setup in self._setups.items():
            if isinstance(setup, InTriton):
                request = setup.contender([self._excerpts[:1]]).requests[0]
                spans, notes = breakdown.timelines(setup.url, {name: request})
                self.result.timelines += spans
                self.result.notes += notes

    def _gone(self) -> str | None:
        return next(filter(None, (server.gone() for server in self._servers)), None)

    def _environment(self) -> dict[str, str]:
        asked, place = self._asked, self._places[0]
        metadata = place.cpu.client.get_server_metadata(as_json=True)
        return {
            **environment.machine(),
            "server": f"{metadata.get('name', 'unknown')} {metadata.get('version', '')}, started for this run",
            "encoder": place.encoder,
            "precision": ", ".join(place.precision for place in self._places),
            "model": asked.model,
            "inputs": f"{len(asked.rows)} rows: {asked.source}",
            "duration": f"{asked.plan.duration_s:g} s for each set-up under each load",
        }

    def _notes(self) -> list[str]:
        notes = [
            f"All in Triton: the client sends excerpts, the model {self._asked.model} does the rest.",
            "Client + models: the client's process makes tokens and features and combines the scores; the models "
            "bert-large and cuml are called in parallel, a request's rows in one call to each. All clients share one "
            "process.",
            f"BERT_WEIGHT is {BERT_WEIGHT}: every row needs both models.",
        ]
        if "random" in self._places[0].encoder:
            notes.append(
                "The encoder's weights are random: the figures are of speed at its size, its scores mean nothing."
            )
        return notes


@asynccontextmanager
async def _both(a: Setup, b: Setup, timeout_s: float) -> AsyncIterator[tuple[parity.Ask, parity.Ask]]:
    def asking(score: Score) -> parity.Ask:
        async def ask(row: Row) -> parity.Answer:
            async with asyncio.timeout(timeout_s):
                return {SCORE.name: await score([_excerpt(row)])}

        return ask

    async with a.connect() as score_a, b.connect() as score_b:
        yield asking(score_a), asking(score_b)


def _excerpt(row: Row) -> bytes:
    texts = row.tensors[EXCERPT.name].ravel().tolist()
    if len(texts) != 1:
        raise UserError(f"{row.where}: expected one excerpt, got {len(texts)}. Make each a row of its own.")
    excerpt: bytes = texts[0]
    return excerpt
