"""Measure the orchestrator against the ensemble, against its own earlier steps, and against the physical limit.

    python benchmarks/orchestrator.py --input ratings.csv --output figures.json

The contenders of a workload take turns on one server, as in `dualpath compare`; ratios are over the ensemble, with a
95 % bootstrap interval. `docs/benchmarks.md` explains the figures.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from dualpath.cli import compare_view
from dualpath.compare import inputs, requests, stats, target
from dualpath.compare.limit import Limit, plans
from dualpath.compare.load import Contender, Turn
from dualpath.compare.requests import Mix
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, Timing, TurnSpec, on_server
from dualpath.compare.server import Server, machine_facts, serving
from dualpath.readability.contract import BERT, EXCERPT, FOREST
from dualpath.repository import folders
from dualpath.repository.facts import Facts
from dualpath.repository.publishing import publish

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("ensemble_all", "orchestrator")
STEPS = tuple(sorted(path.name for path in (ROOT / "benchmarks" / "models").iterdir()))
N_VISIBLE = 16
"""Rows from which the limit chooses at most: more would let it sort further than a server may."""
N_EXCERPTS = 256
TIMEOUT_S = 60.0

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Workload:
    """A load, the weights of its requests, and who takes part besides the two styles."""

    name: str
    weights: Mix
    load: Load
    has_limit: bool = False
    has_steps: bool = True


LIGHT, HEAVY, HALF = {0.0: 1.0}, {0.5: 1.0}, {0.0: 0.5, 0.5: 0.5}
WORKLOADS = (
    Workload("weight 0, 1 client", LIGHT, Load(1, 1)),
    Workload("weight 0, 16 clients", LIGHT, Load(1, 16)),
    Workload("weight 0.5, 1 client", HEAVY, Load(1, 1), has_limit=True),
    Workload("weight 0.5, 16 clients", HEAVY, Load(1, 16), has_limit=True),
    Workload("half weight 0, 16 clients", HALF, Load(1, 16), has_limit=True),
    Workload("weight 0.5, 1 client of 64 rows", HEAVY, Load(64, 1), has_limit=True, has_steps=False),
)
NULL_WORKLOADS = tuple(Workload(f"null models, {n} client(s)", HEAVY, Load(1, n)) for n in (1, 16))


def main(
    input: Annotated[Path | None, typer.Option(help="As for `dualpath compare`; else the built-in excerpts.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each contender of a workload.")] = 18.0,
    only: Annotated[str, typer.Option(help="Only workloads whose name contains this.")] = "",
    ablation: Annotated[bool, typer.Option(help="Measure the models of benchmarks/models too.")] = True,
    null: Annotated[bool, typer.Option(help="Measure null models too.")] = True,
    model_repository: Annotated[Path, typer.Option(help="With artifacts built.")] = ROOT / "model_repository",
) -> None:
    """Run the workloads and print what each found."""
    bench = Bench(inputs.read(input), duration, ablation)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "model_repository"
        shutil.copytree(model_repository, repository, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "benchmarks" / "models", repository, dirs_exist_ok=True)
        bench.run([it for it in WORKLOADS if only in it.name], repository, model_repository)
        if null:
            _null_artifacts(repository)
            bench.run([it for it in NULL_WORKLOADS if only in it.name], repository, model_repository)
    if output:
        output.write_text(json.dumps(bench.figures, indent=1) + "\n")


@dataclass
class Bench:
    """Runs workloads and collects their `figures`, by workload."""

    source: inputs.InputRows
    duration_s: float
    ablation: bool
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self, workloads: Sequence[Workload], repository: Path, model_repository: Path) -> None:
        """Measure workloads on one server of a repository; the limit runs the artifacts of the other."""
        if not workloads:
            return
        with serving(repository) as server, ExitStack() as stack:
            limits: dict[str, Limit] = {}
            if any(it.has_limit for it in workloads):
                limits = {f"limit: {plan}": stack.enter_context(Limit(model_repository, plan)) for plan in plans()}
            for workload in workloads:
                self._measure(workload, server, limits)

    def _measure(self, workload: Workload, server: Server, limits: Mapping[str, Limit]) -> None:
        names = [*MODELS, *(STEPS if self.ablation and workload.has_steps else ())]
        targets = {name: target.read(server.client, name) for name in names}
        pair = target.pair(*(targets[name] for name in MODELS))
        rows = self.source.tensors(pair.inputs)
        n_visible = min(workload.load.batch * (workload.load.concurrency or 1), N_VISIBLE)
        chosen = dict(limits) if workload.has_limit else {}
        excerpts = [bytes(row.tensors[EXCERPT.name].item()) for row in rows][:N_EXCERPTS]
        on_triton = on_server(server.url, TIMEOUT_S)

        def make(name: str, load: Load) -> Contender:
            if name in chosen:
                return Contender(name, [b""], [""], load.batch)
            return requests.contender(name, targets[name], pair, rows, load.batch, workload.weights)

        def measure_turn(spec: TurnSpec) -> Turn:
            if (limit := chosen.get(spec.contender.name)) is None:
                return on_triton(spec)
            return limit.run_turn(excerpts, list(workload.weights), n_visible, spec.duration_s, spec.start)

        def over_limit(turns: Mapping[str, Sequence[Turn]]) -> None:
            speed = {name: stats.throughput(taken) for name, taken in turns.items()}
            best = max(chosen, key=lambda name: np.mean(speed[name]), default="")
            x_limit.update({name: stats.ratio(speed[name], speed[best]) for name in names if best})
            if best:
                console.print(f"{workload.name}: over {best}: {', '.join(f'{n} {r}' for n, r in x_limit.items())}")

        x_limit: dict[str, stats.Ratio] = {}
        result = Result(workload.name, [*names, *chosen])
        measurement = Measurement(result, [workload.load], make, measure_turn, Timing(self.duration_s, TIMEOUT_S))
        measurement.on_turns = over_limit
        with console.status("") as status:
            measurement.on_progress = lambda text, fraction: status.update(f"{workload.name}: {text}")
            measurement.run()
        result.environment = {**machine_facts(), "precision": server.precision or "unknown", **server.engines()}
        self.figures[workload.name] = {**result.to_dict(), "x_limit": {name: vars(it) for name, it in x_limit.items()}}
        compare_view.show(result, Console(width=150))


def _null_artifacts(repository: Path) -> None:
    """Replace both models by ones that answer a constant."""
    import torch
    import treelite
    from sklearn.ensemble import RandomForestRegressor

    class Null(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.zeros(input_ids.size(0), 1)

    def bert(folder: Path) -> Facts:
        shutil.copyfile(folders.newest(repository / BERT.name) / "tokenizer.json", folder / "tokenizer.json")
        torch.jit.script(Null()).save(str(folder / "model.pt"))
        return Facts(precision="float32")

    def forest(folder: Path) -> Facts:
        shutil.copyfile(folders.newest(repository / FOREST.name) / "word_lists.json", folder / "word_lists.json")
        fitted = RandomForestRegressor(1, max_depth=1).fit(np.zeros((2, 207)), np.zeros(2))
        treelite.sklearn.import_model(fitted).serialize(folder / "checkpoint.tl")
        return Facts()

    publish(repository, {BERT.name: bert, FOREST.name: forest})


if __name__ == "__main__":
    typer.run(main)
