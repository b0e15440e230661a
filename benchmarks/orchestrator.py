"""Measure the orchestrator against the ensemble, against its own earlier steps, and against the physical limit.

    python benchmarks/orchestrator.py --input ratings.csv --output figures.json

All contenders of a workload take turns of a few seconds on one server in one run; every ratio is of turns next to each
other, with a 95 % bootstrap interval. `docs/benchmarks.md` explains the figures.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import tritonclient.grpc as grpcclient
import typer
from rich.console import Console
from rich.table import Table
from turns import in_turns

from dualpath.compare import stats
from dualpath.compare.connection import serialise
from dualpath.compare.limit import Limit, Plan, plans
from dualpath.compare.load import Contender, Turn, run_turn
from dualpath.readability.samples import SAMPLES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving import TritonServer

ROOT = Path(__file__).resolve().parent.parent
STEPS = ["bls_textbook", "bls_in_process", "bls_early_return"]
N_REQUESTS = 256

console = Console(stderr=True)


@dataclass(frozen=True)
class Workload:
    """Closed-loop clients, each with requests of so many rows, whose weights take turns.

    A turn of one client may be short, and the machine drifts little within a pair of turns; a turn of many must be much
    longer than its beginning and its end, when fewer are at work.
    """

    name: str
    weights: tuple[float, ...]
    concurrency: int
    rows: int
    seconds: float
    turns: int = 1  # times the option --turns
    has_limit: bool = False
    ablation: bool = False


WORKLOADS = (
    Workload("weight 0, 1 client", (0.0,), 1, 1, 0.5, turns=4, ablation=True),
    Workload("weight 0, 16 clients", (0.0,), 16, 1, 2, ablation=True),
    Workload("weight 0.5, 1 client", (0.5,), 1, 1, 0.5, turns=4, has_limit=True, ablation=True),
    Workload("weight 0.5, 16 clients", (0.5,), 16, 1, 3, has_limit=True, ablation=True),
    Workload("half weight 0, 16 clients", (0.0, 0.5), 16, 1, 3, has_limit=True, ablation=True),
    Workload("weight 0.5, 1 client of 64 rows", (0.5,), 1, 64, 3, has_limit=True),
)


def main(
    input: Annotated[
        Path | None, typer.Option(help="CSV with a column `excerpt`; the built-in samples without.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    turns: Annotated[int, typer.Option(help="Turns of each contender.")] = 6,
    only: Annotated[str, typer.Option(help="Only workloads whose name contains this.")] = "",
    ablation: Annotated[bool, typer.Option(help="Measure the orchestrator's earlier steps too.")] = True,
    null: Annotated[bool, typer.Option(help="Measure null models too.")] = True,
    model_repository: Annotated[Path, typer.Option(help="With artifacts built.")] = ROOT / "model_repository",
) -> None:
    """Run the workloads and print one table each."""
    excerpts = _excerpts(input)
    precision = Facts.of(newest(model_repository / "bert-large")).precision
    workloads: dict[str, object] = {}
    report = {"machine": _machine(), "precision": precision, "turns": turns, "workloads": workloads}
    console.print(report["machine"], precision)
    with tempfile.TemporaryDirectory() as scratch:
        repository = _repository(Path(scratch), model_repository)
        chosen = [workload for workload in WORKLOADS if only in workload.name]
        if chosen:
            with TritonServer(repository, http_port=0, grpc_port=0, metrics_port=0) as server, ExitStack() as stack:
                limits = (
                    stack.enter_context(_Limits(model_repository, excerpts))
                    if any(w.has_limit for w in chosen)
                    else None
                )
                report["limit_plans"] = limits.measured if limits else {}
                for workload in chosen:
                    names = ["ensemble_all", "orchestrator", *(STEPS if ablation and workload.ablation else [])]
                    workloads[workload.name] = _measure(server, workload, names, excerpts, turns, limits)
        if null:
            _null_artifacts(repository)
            with TritonServer(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
                for concurrency in (1, 16):
                    workload = Workload(f"null models, {concurrency} client(s)", (0.5,), concurrency, 1, 0.5, turns=3)
                    names = ["ensemble_all", "orchestrator", *STEPS]
                    workloads[workload.name] = _measure(server, workload, names, [b"word"], turns, None)
    if output:
        output.write_text(json.dumps(report, indent=1) + "\n")


def _excerpts(path: Path | None) -> list[bytes]:
    if path is None:
        return [sample.text.encode() for sample in SAMPLES]
    with path.open(encoding="utf-8", newline="") as lines:
        excerpts = [row["excerpt"].encode() for row in csv.DictReader(lines)]
    np.random.default_rng(0).shuffle(excerpts)
    return excerpts


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{models[0]}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def _repository(scratch: Path, model_repository: Path) -> Path:
    """Put the project's models and the ablation's into one repository."""
    repository = scratch / "model_repository"
    shutil.copytree(model_repository, repository, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "benchmarks" / "models", repository, dirs_exist_ok=True)
    return repository


def _null_artifacts(repository: Path) -> None:
    """Replace both models by ones that answer a constant."""
    import torch
    import treelite
    from sklearn.ensemble import RandomForestRegressor

    class Null(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.zeros(input_ids.size(0), 1)

    torch.jit.script(Null()).save(str(newest(repository / "bert-large") / "model.pt"))
    forest = RandomForestRegressor(1, max_depth=1).fit(np.zeros((2, 207)), np.zeros(2))
    treelite.sklearn.import_model(forest).serialize(newest(repository / "cuml") / "checkpoint.tl")


def _request(model: str, excerpts: list[bytes], weights: list[float]) -> bytes:
    inputs = [
        grpcclient.InferInput("excerpt", [len(excerpts), 1], "BYTES"),
        grpcclient.InferInput("BERT_WEIGHT", [len(excerpts), 1], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.array(excerpts, np.object_)[:, None])
    inputs[1].set_data_from_numpy(np.array(weights, np.float32)[:, None])
    return serialise(model, inputs, ["SCORE"])


def _contender(model: str, workload: Workload, excerpts: list[bytes]) -> Contender:
    requests, groups = [], []
    for number in range(N_REQUESTS if workload.rows == 1 else 16):
        weight = workload.weights[number % len(workload.weights)]
        rows = [excerpts[(number * workload.rows + row) % len(excerpts)] for row in range(workload.rows)]
        requests.append(_request(model, rows, [weight] * workload.rows))
        groups.append(str(weight))
    return Contender(model, requests, groups, workload.rows)


class _Limits:
    """The in-process limit: the two plans that are fastest at 16 visible rows take part in the turns."""

    def __init__(self, model_repository: Path, excerpts: list[bytes]) -> None:
        self._excerpts = excerpts[:N_REQUESTS]
        self._stack = ExitStack()
        self._limits = {plan: self._stack.enter_context(Limit(model_repository, plan)) for plan in plans()}
        run = {str(plan): partial(self._run, plan, (0.5,), 16, 3.0) for plan in self._limits}
        with console.status("limit: which plan"):
            speeds = {name: float(np.mean(stats.throughput(turns))) for name, turns in in_turns(run, 4).items()}
        self.measured = speeds
        for name, speed in speeds.items():
            console.print(f"limit, {name}: {speed:.1f} rows/s at 16 visible")
        self._best = sorted(self._limits, key=lambda plan: speeds[str(plan)])[-2:]

    def _run(self, plan: Plan, weights: tuple[float, ...], visible: int, seconds: float, start: int) -> Turn:
        return self._limits[plan].run_turn(self._excerpts, weights, visible, seconds, start)

    def runners(self, workload: Workload) -> dict[str, Callable[[int], Turn]]:
        """Return what runs a turn, by the name that tables give to the plan."""
        visible = workload.concurrency * workload.rows
        # A lone row gets as many threads as an instance of bert-large has.
        chosen = [Plan(1, 1, 1)] if visible == 1 else self._best
        return {
            f"limit: {plan}": partial(self._run, plan, workload.weights, min(visible, 16), workload.seconds)
            for plan in chosen
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def _measure(
    server: TritonServer,
    workload: Workload,
    names: list[str],
    excerpts: list[bytes],
    n_turns: int,
    limits: _Limits | None,
) -> dict[str, object]:
    def run(contender: Contender, start: int) -> Turn:
        return asyncio.run(run_turn(server.grpc_url, contender, workload.concurrency, workload.seconds, start))

    runners = {name: partial(run, _contender(name, workload, excerpts)) for name in names}
    if workload.has_limit and limits:
        runners |= limits.runners(workload)
    with console.status(workload.name):
        turns = in_turns(runners, n_turns * workload.turns)
    table = Table(
        "", "rows/s", "x ensemble", "p50 ms", "p99 ms", "p50 x ensemble", "x limit", "errors", title=workload.name
    )
    figures: dict[str, object] = {}
    ours = {name: stats.throughput(t) for name, t in turns.items()}
    p50 = {name: stats.latency(t, 50) for name, t in turns.items()}
    plan = max((name for name in turns if name.startswith("limit")), key=lambda name: np.mean(ours[name]), default="")
    for name, measured in turns.items():
        throughput = stats.ratio(ours[name], ours["ensemble_all"])
        median = stats.ratio(p50[name], p50["ensemble_all"])
        of_limit = stats.ratio(ours[name], ours[plan]) if plan else None
        figures[name] = {
            "rows_per_s": float(np.mean(ours[name])),
            "throughput_x_ensemble": vars(throughput),
            "p50_ms": float(np.median(p50[name])),
            "p99_ms": float(np.median(stats.latency(measured, 99))),
            "p50_x_ensemble": vars(median),
            "x_limit": vars(of_limit) if of_limit else None,
            "p50_x_limit": vars(stats.ratio(p50[name], p50[plan])) if plan else None,
            "by_weight": {
                group: [float(np.median(stats.latency(measured, p, group))) for p in (50, 99)]
                for group in measured[0].latencies_ms
                if all(turn.latencies_ms[group] for turn in measured)
            },
            "errors": sum(turn.n_errors for turn in measured),
        }
        row = figures[name]
        table.add_row(
            name,
            f"{row['rows_per_s']:.1f}",
            str(throughput),
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.1f}",
            str(median),
            str(of_limit or ""),
            str(row["errors"]),
        )
    Console(width=150).print(table)
    for name in turns:
        if len(workload.weights) > 1:
            print(
                name, {group: f"p50 {a:.1f} ms, p99 {b:.1f} ms" for group, (a, b) in figures[name]["by_weight"].items()}
            )  # type: ignore[index]
    sys.stdout.flush()
    return figures


if __name__ == "__main__":
    typer.run(main)
