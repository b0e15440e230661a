"""A comparison of two models of a server: do they agree, and which is faster?"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path

from dualpath.compare import expected, gate, inputs, parity, requests, sequences, target, verdict
from dualpath.compare.agreement import Agreement, LoadCheck
from dualpath.compare.breakdown import Recorder, timelines
from dualpath.compare.breakdown.processes import is_loopback
from dualpath.compare.expected import Filter
from dualpath.compare.gate import Condition
from dualpath.compare.inputs import DEFAULT_WEIGHT, InputRows
from dualpath.compare.load import Contender, Turn
from dualpath.compare.made_up import RandomRows
from dualpath.compare.requests import Mix, Wire
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, OnProgress, Timing, TurnSpec, on_server
from dualpath.compare.sequences import Sequences
from dualpath.compare.server import Server, Start, check_models, machine_facts, serving, start_quietly
from dualpath.compare.target import Pair, Target
from dualpath.compare.tolerance import tolerances
from dualpath.errors import UserError
from dualpath.readability.contract import SCORERS, TOLERANCES, WEIGHT

CONCURRENCY = (1, 4, 16)
BATCHES = (1, 8, 64)


def compare(
    a: str = "ensemble_all",
    b: str = "orchestrator",
    *,
    url: str | None = None,
    headers: Mapping[str, str] = {},
    model_repository: Path = Path("model_repository"),
    input_file: Path | None = None,
    mix: Mix | None = None,
    concurrency: Sequence[int] = CONCURRENCY,
    batch: Sequence[int] | None = None,
    rate: Sequence[float] = (),
    duration_s: float = 10.0,
    timeout_s: float = 30.0,
    atol: Mapping[str, float] | float = {},
    rtol: Mapping[str, float] | float = {},
    ignore: Sequence[str] = (),
    expect_differences: Sequence[str] = (),
    conditions: Sequence[Condition] = (),
    n_random: int | None = None,
    shapes: Mapping[str, Sequence[int]] = {},
    seed: int = 0,
    start: Start = start_quietly,
    on_progress: OnProgress = lambda text, fraction: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Compare model B with model A on one server, first their answers, then their speed.

    Ctrl-C ends it with what was found until then; the result is `interrupted` then.

    Args:
        a: the baseline: a model, or one version as NAME:VERSION.
        url: the server's gRPC address, "grpcs://HOST:PORT" with TLS, or "http://HOST:PORT", "https://…"; without it,
            a server is started on `model_repository`.
        headers: that go with each request to `url`.
        input_file: a table, or perf_analyzer's JSON; without it, the built-in excerpts.
        mix: BERT_WEIGHT -> share of the requests.
        concurrency: numbers of clients that wait for their answers.
        batch: rows per request; without it BATCHES, as far as the models allow.
        rate: requests per second to send at random times.
        duration_s: for each model under each load.
        timeout_s: of each request.
        atol, rtol: largest difference between floats, absolute and relative: one for all, or by output. Without them
            that of the precision that is served, or so many units in the last place if it is unknown.
        ignore: outputs that are not compared.
        expect_differences: rows that may differ, as "ROUTE=cuml"; they are counted apart.
        conditions: of a gate.
        n_random: rows to make up from the models' metadata; `shapes` are those of inputs with free dimensions.
        seed: of all that is random.
        start: starts the server.
        on_progress: is told in words what comes next.
        on_result: is called with the result before a server of its own is stopped, which takes seconds.
    Raises:
        UserError: the models, the rows or the settings do not fit together, or nothing answers at `url`.
        ServerFailed: a server of its own did not start.
    """
    names = {target.split(name)[0] for name in (a, b)}
    if n_random is not None and input_file:
        raise UserError("--random: expected no --input with it, got both. Leave one out.")
    rows = RandomRows(n_random, seed, shapes) if n_random else inputs.read(input_file)
    atol, rtol = (it if isinstance(it, Mapping) else {"": it} for it in (atol, rtol))
    batches = BATCHES if batch is None else batch
    loads = [Load(n_rows, n) for n_rows in batches for n in concurrency]
    loads += [Load(n_rows, rate=n) for n_rows in batches for n in rate]
    timing = Timing(duration_s, timeout_s, seed)
    filters = [Filter.parse(text) for text in expect_differences]
    comparison = _Comparison(a, b, rows, mix, loads, batch is not None, timing, atol, rtol, ignore, filters, conditions)
    opened: AbstractContextManager[Server]
    if url is None:
        check_models(model_repository, names)
        if names <= {model.name for model in SCORERS}:
            rows.tensors(SCORERS[0].inputs)  # before a server is started for bad ones
        opened = serving(model_repository, start)
    else:
        opened = closing(Server(url, headers=tuple((name.lower(), it) for name, it in headers.items())))
    with opened as server:
        result = comparison.run(server, on_progress)
        on_result(result)
    return result


@dataclass
class _Comparison:
    """Two models, and what they are asked; `run` puts it to a server, once."""

    a: str
    b: str
    rows: InputRows
    mix: Mix | None
    loads: Sequence[Load]
    batches_given: bool
    timing: Timing
    atol: Mapping[str, float]
    rtol: Mapping[str, float]
    ignore: Sequence[str]
    filters: Sequence[Filter]
    conditions: Sequence[Condition]

    def run(self, server: Server, on_progress: OnProgress) -> Result:
        """Check parity, measure under each load, and see where the time goes."""
        self._prepare(server)
        result, recorder = self._result, self._recorder
        with closing(recorder):
            try:
                if self._compare_answers(on_progress):
                    self._measure(on_progress)
            except KeyboardInterrupt:
                result.interrupted = True
            self._conclude()
            result.steps, result.stages, result.processes = recorder.steps(), recorder.stages(), recorder.processes()
            result.notes += recorder.notes
        if not result.interrupted and not self._pair.streams and not server.gone():
            lone = sequences.flags(sequences.new_id(), True, True) if self._sequences else b""
            asked = {name: requests.request(it, self._pair, self._rows[:1]) for name, it in self._targets.items()}
            first = {name: request + lone for name, request in asked.items()}
            result.timelines, notes = timelines(server.url, first, dict(server.headers))
            result.notes += notes
        return result

    def _prepare(self, server: Server) -> None:
        self._server = server
        a, b = (target.read(server.client, name) for name in (self.a, self.b))
        self._targets = {a.name: a, b.name if b.name != a.name else f"{b.name} (again)": b}
        self._pair = self._pair_of(a, b)
        self._wire = Wire(server.url, self._pair, server.headers)
        self._rows = self.rows.tensors(self._pair.inputs, self._pair.optional)
        self._sequences = self._sequences_of()
        self._loads = self._loads_of()
        self._expected = expected.read(self.rows, self._pair, self._targets.values(), self.mix is not None)
        self._is_ours = {a.model, b.model} <= {model.name for model in SCORERS}
        known = TOLERANCES[server.precision or "float32"] if self._is_ours else None
        self._tolerances = tolerances(self._pair.outputs, self.atol, self.rtol, known)
        self._result = Result(
            title=" and ".join(self._targets),
            contenders=list(self._targets),
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            environment=self._environment(),
            notes=self._notes(),
        )
        name_a, name_b = self._targets
        self._names = name_a, name_b
        self._asked = requests.weighted(self._rows, self.mix)
        self._agreement = Agreement(
            self._names,
            [row.where for row in self._asked],
            self._tolerances,
            (a.max_batch_size > 0, b.max_batch_size > 0),
            expected.excuse(self.filters, self._asked),
        )
        self._load_check = LoadCheck(self._agreement, lambda name, it: self._wire.decode(self._targets[name], it))
        models = {name: (target.model, target.version) for name, target in self._targets.items()}
        metrics_url, pid = (server.own.metrics_url, server.own.pid) if server.own else (None, None)
        self._recorder = Recorder(server.url, models, metrics_url, pid, dict(server.headers))

    def _pair_of(self, a: Target, b: Target) -> Pair:
        """Return what two models have in common, without what no row has a value for, and without ignored outputs."""
        expected.check_filters(self.filters, [*a.inputs, *b.inputs, *a.outputs, *b.outputs])
        pair = target.pair(a, b).given(self.rows.has).without(self.ignore)
        names = [tensor.name for tensor in pair.inputs]
        if self.mix and WEIGHT.name not in names:
            raise UserError(
                f"--mix: expected models with an input {WEIGHT.name}, got {', '.join(names)}. Leave it out."
            )

        return replace(pair, watched=tuple(it.name for it in self.filters))

    def _sequences_of(self) -> Sequences:
        """Return the sequences in which models with state are asked; none for others."""
        if not self._pair.keeps_state:
            return ()
        if self.mix or any(load.rate is not None for load in self.loads):
            option = "--mix" if self.mix else "--rate"
            raise UserError(f"{option}: expected models without state, got some with sequence batching. Leave it out.")
        return self.rows.sequences or sequences.made_up(len(self._rows), self.timing.seed)

    def _loads_of(self) -> Sequence[Load]:
        """Return the loads, those that nobody gave with no larger batches than the models take."""
        most, loads = self._pair.max_batch_size, self.loads
        if not self.batches_given:
            loads = list(dict.fromkeys(replace(load, batch=min(load.batch, most)) for load in loads))
        for load in loads:
            requests.check_batch(self._pair, load.batch)
        return loads

    def _conclude(self) -> None:
        result = self._result
        against_file = expected.compare(self._expected, self._targets, self._tolerances, self._asking.answers)
        compared = [*self._agreement.parities(), *against_file]
        at_odds = [expected.parity_of(result.contenders, *it) for it in self._pair.at_odds.items()]
        result.parity = at_odds + compared
        result.n_excused = self._agreement.n_excused
        if any(self._tolerances[it.output].ulps and it.n_equal < it.n_rows for it in compared):
            result.notes.append(
                "The precision of the computation is unknown: floats may differ by some units in the last place (ulp) "
                "of their type. Give --atol or --rtol for another tolerance."
            )
        result.failed |= not all(parity.ok for parity in result.parity)
        if not (result.failed or result.interrupted or any(it.n_rows for it in result.parity)):
            result.failed = True
            result.notes.append(expected.nothing_compared(result))
        result.failed |= gate.fails_under_load(result) or bool(self._load_check.unreadable)
        result.notes += [
            f"{name} gave answers under load that cannot be read, first: {why}"
            for name, why in self._load_check.unreadable.items()
        ]
        if self._load_check.n_answers:
            result.environment["answers under load"] = str(self._load_check)
        gate.check(result, self.conditions)
        result.verdict = verdict.sentence(result)

    def _compare_answers(self, on_progress: OnProgress) -> bool:
        shared = parity.SharedRequests(
            sorted({load.batch for load in self._loads}),
            max([8 if load.rate is not None else load.concurrency or 1 for load in self._loads]),
            self.timing.duration_s,
            self.timing.seed,
        )
        answers = self._result, self._agreement, self._names
        self._asking = parity.Asking(*answers, self._asked, shared, self._sequences)
        connects = [partial(self._wire.asking, model, self._asked) for model in self._targets.values()]
        return self._asking.run(connects, self.timing.timeout_s, self._server.gone, on_progress)

    def _measure(self, on_progress: OnProgress) -> None:
        @cache
        def contender(name: str, batch: int) -> Contender:
            model, seed = self._targets[name], self.timing.seed
            made = requests.contender(name, model, self._pair, self._rows, batch, self.mix, seed, self._sequences)
            return replace(made, kept=self._load_check.keep, connect=self._wire.connect)

        on_triton = on_server(self._server.url, self.timing.timeout_s)

        def checked(spec: TurnSpec) -> Turn:
            turn = on_triton(spec)
            self._load_check.settle(spec.contender, "under load")
            return turn

        def make(name: str, load: Load) -> Contender:
            return contender(name, load.batch)

        around, gone = self._recorder.turn, self._server.gone
        Measurement(self._result, self._loads, make, checked, self.timing, around, gone, on_progress).run()

    def _environment(self) -> dict[str, str]:
        server = self._server
        return {
            **machine_facts(),
            **({} if is_loopback(server.url) else {"machine": "all of the above is the client's, not the server's"}),
            "server": server.describe(),
            "precision": server.precision or "unknown",
            **server.engines(),
            "tolerance": ", ".join(f"{name} {tolerance}" for name, tolerance in self._tolerances.items()),
            "inputs": f"{len(self._rows)} rows: {self.rows.name}",
            "duration": f"{self.timing.duration_s:g} s for each model under each load",
            "timeout": f"{self.timing.timeout_s:g} s",
            "seed": str(self.timing.seed),
        }

    def _notes(self) -> list[str]:
        """Say what of the models and the rows is left out or made up."""
        notes, n_rows, n_without = list(self._pair.notes), len(self._rows), self.rows.n_without_weight()
        if self._sequences:
            whence = "of the input" if self.rows.sequences else "made up of its rows, in their order"
            notes.append(f"Asked in sequences, as one of them keeps state: {len(self._sequences)} {whence}.")
        if not self.mix and n_without and WEIGHT.name in {tensor.name for tensor in self._pair.inputs}:
            notes.append(f"{WEIGHT.name} is {DEFAULT_WEIGHT} in the rows that have none, {n_without} of {n_rows}.")
        if self.atol.get("") is None and self._is_ours and self._server.precision is None:
            notes.append("The precision of the server is unknown; the tolerance is float32's: give --atol for another.")
        return notes
