"""Hold the load generator of `dualpath compare` against perf_analyzer, Triton's own, on one server.

    python benchmarks/perf_analyzer.py --perf-analyzer /path/to/perf_analyzer --input ratings.csv

Both put as many closed-loop clients on the same model and send the same rows in the same order, in turns in random
order; BERT_WEIGHT is 0.5. docs/benchmarks.md says where perf_analyzer comes from.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from turns import in_turns

from dualpath.compare import inputs, requests, stats, target
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender, Turn, run, run_turn
from dualpath.readability.contract import EXCERPT, WEIGHT
from dualpath.serving import TritonServer
from dualpath.serving.client import connect

ROOT = Path(__file__).resolve().parent.parent
N_WINDOWS = 3
"""What perf_analyzer measures at least."""
ANY_PERCENT = "1000"
"""The variation between windows that it is to be content with: turns tell of the noise here, not windows."""


def main(
    perf_analyzer: Annotated[Path, typer.Option(help="The program.")],
    input: Annotated[
        Path | None, typer.Option(help="As for `dualpath compare`; the built-in excerpts without.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Numbers of clients.")] = "4,16",
    window: Annotated[float, typer.Option(help="Seconds of a window; a turn takes three.")] = 3.0,
    turns: Annotated[int, typer.Option(help="Turns of each.")] = 8,
    model_repository: Annotated[Path, typer.Option(help="With artifacts built.")] = ROOT / "model_repository",
) -> None:
    """Measure both load generators in turns and print a line for each model and concurrency."""
    source = inputs.read(input)
    console = Console(stderr=True, highlight=False)
    table = Table("model", "clients", "dualpath rows/s", "perf_analyzer rows/s", "ratio [95 %]")
    with (
        TritonServer(model_repository, http_port=0, grpc_port=0, metrics_port=0) as server,
        closing(connect(server.grpc_url)) as client,
    ):
        a, b = (target.read(client, name) for name in ("ensemble_all", "orchestrator"))
        pair = target.pair(a, b).given(source.has)
        rows = source.tensors(pair.inputs)
        rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
        for n_clients in map(int, concurrency.split(",")):
            for model in (a, b):
                sent = [requests.request(model, pair, [row]) for row in rows]
                contender = Contender(model.name, sent, [""] * len(sent))
                runners = {
                    "dualpath": partial(_ours, server.grpc_url, contender, n_clients, window),
                    "perf_analyzer": partial(
                        _theirs, perf_analyzer, server.grpc_url, model.name, rows, n_clients, window
                    ),
                }
                with console.status(f"{model.name}, {n_clients} clients"):
                    measured = in_turns(runners, turns)
                ours, theirs = (stats.throughput(measured[name]) for name in runners)
                figures = (f"{np.mean(ours):.2f}", f"{np.mean(theirs):.2f}", str(stats.ratio(ours, theirs)))
                table.add_row(model.name, str(n_clients), *figures)
    Console().print(table)


def _ours(url: str, contender: Contender, n_clients: int, window_s: float, start: int) -> Turn:
    return run(run_turn(url, contender, n_clients, N_WINDOWS * window_s, start))


def _theirs(
    program: Path, url: str, model: str, rows: Sequence[Row], n_clients: int, window_s: float, start: int
) -> Turn:
    """Run perf_analyzer; it always begins with the first row of its file, so the file begins with row `start`."""
    first = start % len(rows)
    with tempfile.TemporaryDirectory() as scratch:
        data, found = Path(scratch) / "rows.json", Path(scratch) / "found.csv"
        data.write_text(json.dumps({"data": [_as_json(row) for row in [*rows[first:], *rows[:first]]]}))
        command = [program, "-m", model, "-i", "grpc", "-u", url, "--input-data", data, "-f", found]
        command += ["--concurrency-range", str(n_clients), "-s", ANY_PERCENT]
        command += ["--measurement-interval", str(round(window_s * 1000))]
        for name, tensor in rows[0].tensors.items():
            command += ["--shape", f"{name}:{','.join(map(str, tensor.shape))}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0 or not found.is_file():
            raise SystemExit(f"perf_analyzer failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        with found.open(newline="") as lines:
            rows_per_s = float(next(csv.DictReader(lines))["Inferences/Second"])
    elapsed_s = N_WINDOWS * window_s
    return Turn(elapsed_s, round(rows_per_s * elapsed_s), 0)  # a rate is all that it tells


def _as_json(row: Row) -> dict[str, list[object]]:
    excerpt, weight = row.tensors[EXCERPT.name], row.tensors[WEIGHT.name]
    return {EXCERPT.name: [excerpt.item().decode()], WEIGHT.name: [weight.item()]}


if __name__ == "__main__":
    typer.run(main)
