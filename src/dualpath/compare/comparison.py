"""A comparison of two models of a server: do they agree, and which is faster?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from dualpath.compare import inputs, parity, requests, target, verdict
from dualpath.compare.breakdown import Recorder, timelines
from dualpath.compare.breakdown.processes import is_loopback
from dualpath.compare.inputs import DEFAULT_WEIGHT, InputRows
from dualpath.compare.load import Contender
from dualpath.compare.machine import machine_facts
from dualpath.compare.requests import Mix
from dualpath.compare.result import Load, Result
from dualpath.compare.run import OnProgress, Timing, measure, on_server
from dualpath.compare.server import Server, Start, check_models, serving, start_quietly
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, SCORERS, TOLERANCES, WEIGHT

CONCURRENCY = (1, 4, 16)
BATCHES = (1, 8, 64)


@dataclass(frozen=True)
class _Question:
    """What is compared, as far as it can be checked without a server."""

    a: str
    b: str
    rows: InputRows
    mix: Mix | None
    loads: Sequence[Load]
    batches_given: bool
    timing: Timing
    atol: float | None


def compare(
    a: str = "ensemble_all",
    b: str = "orchestrator",
    *,
    url: str | None = None,
    model_repository: Path = Path("model_repository"),
    input_file: Path | None = None,
    mix: Mix | None = None,
    concurrency: Sequence[int] = CONCURRENCY,
    batch: Sequence[int] | None = None,
    rate: Sequence[float] = (),
    duration_s: float = 10.0,
    timeout_s: float = 30.0,
    atol: float | None = None,
    seed: int = 0,
    start: Start = start_quietly,
    on_progress: OnProgress = lambda text, fraction: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Compare model B with model A on one server, first their answers, then their speed.

    Ctrl-C ends it with what was found until then; the result is `interrupted` then.

    Args:
        a: the baseline: a model, or one version as NAME:VERSION.
        url: the server's gRPC address; without it, a server is started on `model_repository`.
        input_file: a .csv or .json file; without it, the built-in excerpts.
        mix: BERT_WEIGHT -> share of the requests.
        concurrency: numbers of clients that wait for their answers.
        batch: rows per request; without it BATCHES, as far as the models allow.
        rate: requests per second to send at random times.
        duration_s: for each model under each load.
        timeout_s: of each request.
        atol: largest difference between two answers; without it, the one for the precision that is served.
        seed: of all that is random.
        start: starts the server.
        on_progress: is told in words what comes next.
        on_result: is called with the result before a server of its own is stopped, which takes seconds.
    Raises:
        UserError: the models, the rows or the settings do not fit together, or nothing answers at `url`.
        ServerFailed: a server of its own did not start.
    """
    for name in (a, b):
        target.split(name)
    if atol is not None and not atol >= 0:
        raise UserError(f"--atol: expected a number of 0 or more, got {atol:g}. Give one.")
    batches = BATCHES if batch is None else batch
    loads = [Load(rows, n) for rows in batches for n in concurrency] + [
        Load(rows, rate=n) for rows in batches for n in rate
    ]
    timing = Timing(duration_s, timeout_s, seed)
    question = _Question(a, b, inputs.read(input_file), mix, loads, batch is not None, timing, atol)
    with _server(question, url, model_repository, start) as server:
        result = _Comparison(question, server).run(on_progress)
        on_result(result)
    return result


@contextmanager
def _server(question: _Question, url: str | None, model_repository: Path, start: Start) -> Iterator[Server]:
    if url is not None:
        with closing(Server(url)) as server:
            yield server
        return
    names = {target.split(name)[0] for name in (question.a, question.b)}
    check_models(model_repository, names)
    if names <= {model.name for model in SCORERS}:
        question.rows.tensors(SCORERS[0].inputs)  # before a server is started for bad ones
    with serving(model_repository, start) as server:
        yield server


class _Comparison:
    """Two models of a server and the rows they are asked, ready to run into `result`.

    Raises:
        UserError: the models are not there, or cannot be compared, or do not take what is asked of them.
    """

    def __init__(self, question: _Question, server: Server) -> None:
        self._question, self._server = question, server
        a, b = (target.read(server.client, name) for name in (question.a, question.b))
        self._pair = target.pair(a, b).given(question.rows.has)
        self._check_inputs()
        self._rows = question.rows.tensors(self._pair.inputs)
        self._loads = question.loads
        if not question.batches_given:
            self._loads = [load for load in question.loads if load.batch <= self._pair.max_batch_size]
        for batch in {load.batch for load in self._loads}:
            requests.check_batch(self._rows, self._pair, batch)
        self._targets = {a.name: a, b.name if b.name != a.name else f"{b.name} (again)": b}
        self._atol = TOLERANCES[server.precision or "float32"] if question.atol is None else question.atol
        self.result = Result(
            title=" and ".join(self._targets),
            contenders=list(self._targets),
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            environment=self._environment(),
            notes=self._notes(),
        )
        self._recorder = Recorder(
            server.url,
            {name: (target.model, target.version) for name, target in self._targets.items()},
            server.own.metrics_url if server.own else None,
            server.own.pid if server.own else None,
        )

    def run(self, on_progress: OnProgress) -> Result:
        """Check parity, measure under each load, and see where the time goes; once."""
        with closing(self._recorder):
            try:
                if self._compare_answers(on_progress):
                    self._measure(on_progress)
            except KeyboardInterrupt:
                self.result.interrupted = True
            self.result.verdict = verdict.sentence(self.result)
            self._break_down()
        if not self.result.interrupted and not self._server.gone():
            self._trace()
        return self.result

    def _compare_answers(self, on_progress: OnProgress) -> bool:
        question = self._question
        rows = requests.weighted(self._rows, question.mix)
        a, b = self._targets.values()
        return parity.check(
            self.result,
            self.result.contenders[1],
            rows,
            lambda: parity.both(self._server.url, a, b, self._pair, question.timing.timeout_s),
            [tensor.name for tensor in self._pair.outputs],
            self._atol,
            gone=self._server.gone,
            on_progress=on_progress,
        )

    def _measure(self, on_progress: OnProgress) -> None:
        question = self._question

        @cache
        def contender(name: str, batch: int) -> Contender:
            model = self._targets[name]
            return requests.contender(name, model, self._pair, self._rows, batch, question.mix, question.timing.seed)

        measure(
            self.result,
            self._loads,
            lambda name, load: contender(name, load.batch),
            on_server(self._server.url, question.timing.timeout_s),
            question.timing,
            around=self._recorder.turn,
            gone=self._server.gone,
            on_progress=on_progress,
        )

    def _break_down(self) -> None:
        result, recorder = self.result, self._recorder
        result.steps, result.stages, result.processes = recorder.steps(), recorder.stages(), recorder.processes()
        result.notes += recorder.notes

    def _trace(self) -> None:
        first = {name: requests.request(it, self._pair, self._rows[:1]) for name, it in self._targets.items()}
        self.result.timelines, notes = timelines(self._server.url, first)
        self.result.notes += notes

    def _check_inputs(self) -> None:
        names = [tensor.name for tensor in self._pair.inputs]
        if self._question.mix and WEIGHT.name not in names:
            raise UserError(
                f"--mix: expected models with an input {WEIGHT.name}, got {', '.join(names)}. Leave it out."
            )
        if self._question.rows.is_built_in and not {*names} <= {EXCERPT.name, WEIGHT.name}:
            raise UserError(
                f"--input: expected a file with {', '.join(names)}, got the built-in excerpts, which have "
                f"{EXCERPT.name} only. Give one."
            )

    def _environment(self) -> dict[str, str]:
        question, server = self._question, self._server
        if question.atol is not None:
            tolerance_of = "as asked"
        else:
            tolerance_of = f"as for {server.precision or 'float32; the precision of the server is unknown'}"
        return {
            **machine_facts(),
            **({} if is_loopback(server.url) else {"machine": "all of the above is the client's, not the server's"}),
            "server": server.describe(),
            "precision": server.precision or "unknown",
            "tolerance": f"{self._atol:g}, {tolerance_of}",
            "inputs": f"{len(self._rows)} rows: {question.rows.name}",
            "duration": f"{question.timing.duration_s:g} s for each model under each load",
            "timeout": f"{question.timing.timeout_s:g} s",
            "seed": str(question.timing.seed),
        }

    def _notes(self) -> list[str]:
        notes = list(self._pair.notes)
        if self._question.atol is None and self._server.precision is None:
            notes.append("The precision of the server is unknown; the tolerance is float32's: give --atol for another.")
        n_without = self._question.rows.n_without_weight()
        if not self._question.mix and n_without and any(tensor.name == WEIGHT.name for tensor in self._pair.inputs):
            notes.append(
                f"{WEIGHT.name} is {DEFAULT_WEIGHT} in the rows that have none, {n_without} of {len(self._rows)}."
            )
        return notes
