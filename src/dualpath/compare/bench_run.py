"""How fast is the pipeline on this machine, by where its steps run and by batch size?"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path

import numpy as np

from dualpath.compare import breakdown, inputs, parity, setups, verdict
from dualpath.compare.agreement import Agreement
from dualpath.compare.bench_servers import ServedEncoder, default_work_dir, serve_setups
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender, Turn
from dualpath.compare.result import Load, Process, Result
from dualpath.compare.run import Measurement, OnProgress, Timing, TurnSpec, on_server
from dualpath.compare.server import Server, Start, machine_facts, start_quietly
from dualpath.compare.setups import LONGEST_REQUEST_S, BenchSetup, InClient, InTriton, excerpt_of
from dualpath.compare.tolerance import Tolerance
from dualpath.errors import UserError
from dualpath.readability.contract import ENSEMBLE, MAX_BATCH_SIZE, ORCHESTRATOR, SCORE, TOLERANCES
from dualpath.serving.preflight import GPU, TEXT_ON_CPU

BENCH_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
N_COMPARED = 32
"""Inputs that all set-ups answer before the load, each in a request of its own."""


def bench(
    *,
    model_repository: Path = Path("model_repository"),
    input_file: Path | None = None,
    batch: Sequence[int] = BENCH_BATCHES,
    concurrency: Sequence[int] = (1,),
    duration_s: float = 10.0,
    model: str = ORCHESTRATOR.name,
    encoder_shape: str = "minilm",
    precisions: Sequence[str] = (),
    work_dir: Path | None = None,
    start: Start = start_quietly,
    on_progress: OnProgress = lambda text, fraction: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Measure the pipeline's set-ups: throughput by batch size, and the latency of one excerpt.

    Ctrl-C ends it with what was measured until then; the result is `interrupted` then.

    Args:
        input_file: as for `compare`.
        batch: rows per request.
        model: the one that is asked if everything is in Triton.
        encoder_shape: "minilm" or "bert-large".
        precisions: of the encoder; none means the model repository as it is served.
        work_dir: where encoders are built and kept; without it, in the user's cache.
        start, on_progress, on_result: as for `compare`.
    Raises:
        UserError: the rows or the settings do not fit together, or an encoder cannot be built.
        ServerFailed: a server did not start.
    """
    if max(batch) > MAX_BATCH_SIZE:
        raise UserError(f"--batch: expected at most {MAX_BATCH_SIZE} rows a request, got {max(batch)}. Give less.")
    loads = {Load(rows, clients) for rows in batch for clients in concurrency}
    loads.add(Load(1, 1))  # the latency of one
    found = inputs.read(input_file)
    rows, timing = found.tensors(ENSEMBLE.inputs), Timing(duration_s, timeout_s=4 * LONGEST_REQUEST_S)
    for row in rows:
        excerpt_of(row)
    ordered = sorted(loads, key=lambda load: (load.concurrency or 0, load.batch))
    encoder = encoder_shape, precisions, work_dir or default_work_dir()
    with serve_setups(model_repository, model, *encoder, start, on_progress) as places:
        result = _Bench(rows, found.name, ordered, timing, model, places).run(on_progress)
        on_result(result)
    return result


@dataclass
class _Bench:
    """The set-ups on their servers, ready to run into `result`."""

    rows: Sequence[Row]
    source: str
    loads: Sequence[Load]
    timing: Timing
    model: str
    places: Sequence[ServedEncoder]

    def __post_init__(self) -> None:
        places = self.places
        self._excerpts = [excerpt_of(row) for row in self.rows]
        self._setups: dict[str, BenchSetup] = {}
        self._absent: dict[str, str] = {}
        self._families: list[list[str]] = []  # names of each place's set-ups
        for place in places:
            self._add(place, f", {place.precision}" if len(places) > 1 else "")
        self._now = breakdown.TurnRows()  # the rows of the turn that runs
        self._servers = [server for place in places for server in (place.cpu, place.text_on_cpu, place.gpu) if server]
        self.result = Result(
            title=f"Set-ups of the pipeline, {places[0].encoder}",
            contenders=[*self._setups, *self._absent],
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            environment=self._environment(),
            notes=self._notes(),
        )
        self._recorders = {server.url: self._recorder(server) for server in self._servers}

    def run(self, on_progress: OnProgress) -> Result:
        """Compare the set-ups' answers, measure them, and see where the time goes; once."""
        with ExitStack() as stack:
            for recorder in self._recorders.values():
                stack.enter_context(closing(recorder))
            try:
                families = zip(self.places, self._families, strict=True)
                if all(self._compare_answers(place, family, on_progress) for place, family in families):
                    self._measure(on_progress)
            except KeyboardInterrupt:
                self.result.interrupted = True
            self.result.verdict = f"{setups.headline(self.result)} {verdict.sentence(self.result)}".strip()
            self._break_down()
        if not self.result.interrupted and not self._gone():
            self._trace()
        return self.result

    def _add(self, place: ServedEncoder, suffix: str) -> None:
        on_gpu = place.gpu or place.text_on_cpu
        all_cpu, client = f"all in Triton, CPU{suffix}", f"client + models on {'GPU' if on_gpu else 'CPU'}{suffix}"
        family: dict[str, BenchSetup] = {
            all_cpu: InTriton(all_cpu, place.cpu.url, self.model),
            client: InClient(client, (on_gpu or place.cpu).url, place.repository),
        }
        for where, server, config in (
            ("text on CPU, models on GPU", place.text_on_cpu, TEXT_ON_CPU),
            ("GPU", place.gpu, GPU),
        ):
            name = f"all in Triton, {where}{suffix}"
            if server:
                family[name] = InTriton(name, server.url, self.model)
            else:
                self._absent[name] = place.why_not[config]
        self._setups |= family
        self._families.append([*family])

    def _compare_answers(self, place: ServedEncoder, family: Sequence[str], on_progress: OnProgress) -> bool:
        """Compare the answers of one encoder's set-ups with its first; say whether the servers are still there."""
        tolerance = Tolerance(TOLERANCES.get(place.precision, max(TOLERANCES.values())))
        rows = self.rows[:N_COMPARED]
        baseline, *others = family
        for other in others:
            names = (baseline, other)
            agreement = Agreement(names, [row.where for row in rows], {SCORE.name: tolerance})
            try:
                asking = parity.Asking(self.result, agreement, names, rows)
                connects = [partial(setups.asking, self._setups[name], rows) for name in names]
                there = asking.run(connects, self.timing.timeout_s, self._gone, on_progress)
            finally:
                found = agreement.parities()
                self.result.parity += found
                self.result.failed |= not all(it.ok for it in found)
            if not there:
                return False
        return True

    def _measure(self, on_progress: OnProgress) -> None:
        rng = np.random.default_rng(self.timing.seed)
        shuffled = [self._excerpts[index] for index in rng.permutation(len(self._excerpts))]
        measure_turn = on_server("", self.timing.timeout_s)  # set-ups know their own server

        @cache
        def contender(name: str, batch: int) -> Contender:
            return self._setups[name].contender(setups.batches(shuffled, batch))

        def make(name: str, load: Load) -> Contender | str:
            absent = self._absent.get(name) or setups.too_slow(self.result.cells, name, load)
            return absent or contender(name, load.batch)

        def counted(order: TurnSpec) -> Turn:
            turn = measure_turn(order)
            n_clients = order.load.concurrency or 1
            self._now.n_rows += turn.n_rows + order.load.batch * n_clients * (order.warm_up or n_clients > 1)
            return turn

        around, gone = self._around, self._gone
        Measurement(self.result, self.loads, make, counted, self.timing, around, gone, on_progress).run()

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
        device = ""
        if server in [place.gpu for place in self.places]:
            device = " on the GPU"
        elif server in [place.text_on_cpu for place in self.places]:
            device = " with models on the GPU"
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
        place = self.places[0]
        return {
            **machine_facts(),
            "server": place.cpu.describe(),
            "encoder": place.encoder,
            "precision": ", ".join(place.precision for place in self.places),
            **{f"{of}{self._label(server)}": it for server in self._servers for of, it in server.engines().items()},
            "model": self.model,
            "inputs": f"{len(self.rows)} rows: {self.source}",
            "duration": f"{self.timing.duration_s:g} s for each set-up under each load",
        }

    def _notes(self) -> list[str]:
        notes = [
            f"All in Triton: the client sends excerpts, the model {self.model} does the rest.",
            "Client + models: the client's process makes tokens and features and combines the scores; the models "
            "bert-large and cuml are called in parallel, a request's rows in one call to each. All clients share one "
            "process.",
            f"BERT_WEIGHT is {setups.BERT_WEIGHT}: every row needs both models.",
        ]
        if "random" in self.places[0].encoder:
            notes.append(
                "The encoder's weights are random: the figures are of speed at its size, its scores mean nothing."
            )
        return notes
