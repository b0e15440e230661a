"""A comparison of two models: what is asked for, the server it runs on, and how it runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonclient.utils import InferenceServerException

from dualpath.cli.compare_view import View, live
from dualpath.cli.serve import start
from dualpath.compare import environment, parity, requests, target, verdict
from dualpath.compare.breakdown import Recorder, timelines
from dualpath.compare.breakdown.processes import is_loopback
from dualpath.compare.inputs import DEFAULT_WEIGHT, Source
from dualpath.compare.load import Contender
from dualpath.compare.requests import Mix
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Plan, measure, on_server
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, EXCERPT, SCORERS, TOLERANCES, WEIGHT
from dualpath.repository import folders
from dualpath.repository.facts import Facts
from dualpath.serving import ServerFailed, TritonServer
from dualpath.serving.client import connect

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Asked:
    """What is asked for, as far as it can be checked without a server."""

    a: str
    b: str
    source: Source
    mix: Mix | None
    loads: list[Load]
    batches_given: bool
    plan: Plan
    atol: float | None


@dataclass
class Server:
    """Where the models are: a server of somebody else's, or one of this command's own."""

    url: str
    own: TritonServer | None = None
    precision: str | None = None
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = connect(self.url)

    def close(self) -> None:
        """Close the connection; the server stays."""
        self.client.close()

    def gone(self) -> str | None:
        """Say why the server is gone, or None."""
        try:
            if self.own:
                self.own.wait(0)
            return None if self.client.is_server_live(client_timeout=5) else "it is not alive"
        except ServerFailed as error:
            return str(error).rstrip(".")
        except InferenceServerException as error:
            return f"no answer from {self.url}: {error.message()}"


@contextmanager
def server_for(asked: Asked, url: str | None, model_repository: Path, console: Console) -> Iterator[Server]:
    """Connect to the server at an address; without one, start a server on the model repository.

    Raises:
        UserError: nothing answers there, or the repository lacks a model; also for bad rows, where they can be told.
    """
    if url is not None:
        with closing(Server(url)) as server:
            yield server
        return
    known = {model.name for model in folders.models(model_repository)}
    names = {target.split(name)[0] for name in (asked.a, asked.b)}
    if unknown := sorted(names - known):
        raise UserError(f"{unknown[0]}: expected a model of {model_repository}, which has {', '.join(sorted(known))}.")
    if names <= {model.name for model in SCORERS}:
        asked.source.rows(SCORERS[0].inputs)
    precision = Facts.of(folders.newest(model_repository / BERT.name)).precision
    with start(model_repository, console) as triton, closing(Server(triton.grpc_url, triton, precision)) as server:
        yield server


class Comparison:
    """Two models of a server and the rows they are asked, ready to run into `result`.

    Raises:
        UserError: the models are not there, or cannot be compared, or do not take what is asked of them.
    """

    def __init__(self, asked: Asked, server: Server) -> None:
        self._asked, self._server = asked, server
        a, b = (target.read(server.client, name) for name in (asked.a, asked.b))
        self._pair = target.pair(a, b).given(asked.source.has)
        self._check_inputs()
        self._rows = asked.source.rows(self._pair.inputs)
        self._loads = asked.loads
        if not asked.batches_given:
            self._loads = [load for load in asked.loads if load.batch <= self._pair.max_batch_size]
        for batch in {load.batch for load in self._loads}:
            requests.check_batch(self._rows, self._pair, batch)
        self._targets = {a.name: a, b.name if b.name != a.name else f"{b.name} (again)": b}
        self._atol = TOLERANCES[server.precision or "float32"] if asked.atol is None else asked.atol
        self.result = Result(
            title=" and ".join(self._targets),
            contenders=list(self._targets),
            command=shlex.join(["dualpath", *sys.argv[1:]]),
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

    def run(self, console: Console) -> None:
        """Check parity, measure under each load, and see where the time goes; once.

        On Ctrl-C the result holds what was found until then, and KeyboardInterrupt goes on.
        """
        with closing(self._recorder):
            try:
                with live(console) as view:
                    if self._compare_answers(view):
                        self._measure(view)
            except KeyboardInterrupt:
                self._break_down()
                raise
            finally:
                self.result.verdict = verdict.sentence(self.result)
            self._break_down()
        if not self._server.gone():
            self._trace()

    def _compare_answers(self, view: View) -> bool:
        rows = requests.weighted(self._rows, self._asked.mix)
        a, b = self._targets.values()
        return parity.check(
            self.result,
            self.result.contenders[1],
            rows,
            lambda: parity.both(self._server.url, a, b, self._pair, self._asked.plan.timeout_s),
            [tensor.name for tensor in self._pair.outputs],
            self._atol,
            gone=self._server.gone,
            on_row=lambda number: view.parity(number, len(rows)),
        )

    def _measure(self, view: View) -> None:
        asked = self._asked

        @cache
        def contender(name: str, batch: int) -> Contender:
            model = self._targets[name]
            return requests.contender(name, model, self._pair, self._rows, batch, asked.mix, asked.plan.seed)

        measure(
            self.result,
            self._loads,
            lambda name, load: contender(name, load.batch),
            on_server(self._server.url, asked.plan.timeout_s),
            asked.plan,
            around=self._recorder.turn,
            gone=self._server.gone,
            on_progress=view.load,
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
        if self._asked.mix and WEIGHT.name not in names:
            raise UserError(
                f"--mix: expected models with an input {WEIGHT.name}, got {', '.join(names)}. Leave it out."
            )
        if self._asked.source.is_built_in and not {*names} <= {EXCERPT.name, WEIGHT.name}:
            raise UserError(f"expected --input for {', '.join(names)}; the built-in excerpts have {EXCERPT.name} only.")

    def _environment(self) -> dict[str, str]:
        asked, server = self._asked, self._server
        try:
            metadata = server.client.get_server_metadata(as_json=True, client_timeout=5)
        except InferenceServerException as error:
            raise UserError(
                f"--url: expected a server at {server.url} that names itself, got: {error.message()}. Look at its log."
            ) from None
        if asked.atol is not None:
            tolerance_of = "as asked"
        else:
            tolerance_of = f"as for {server.precision or 'float32; the precision of the server is unknown'}"
        return {
            **environment.machine(),
            **({} if is_loopback(server.url) else {"machine": "all of the above is the client's, not the server's"}),
            "server": f"{metadata.get('name', 'unknown')} {metadata.get('version', '')} at "
            + ("a port of its own, started for this run" if server.own else server.url),
            "precision": server.precision or "unknown",
            "tolerance": f"{self._atol:g}, {tolerance_of}",
            "inputs": f"{len(self._rows)} rows: {asked.source.name}",
            "duration": f"{asked.plan.duration_s:g} s for each model under each load",
            "timeout": f"{asked.plan.timeout_s:g} s",
            "seed": str(asked.plan.seed),
        }

    def _notes(self) -> list[str]:
        notes = list(self._pair.notes)
        if self._asked.atol is None and self._server.precision is None:
            notes.append("The precision of the server is unknown; the tolerance is float32's: give --atol for another.")
        n_without = self._asked.source.n_without_weight()
        if not self._asked.mix and n_without and any(tensor.name == WEIGHT.name for tensor in self._pair.inputs):
            notes.append(
                f"{WEIGHT.name} is {DEFAULT_WEIGHT} in the rows that have none, {n_without} of {len(self._rows)}."
            )
        return notes
