"""Compare the load generator of `dualpath compare` with perf_analyzer, Triton's own, on one server.

    python benchmarks/perf_analyzer.py --perf-analyzer /path/to/perf_analyzer --input ratings.csv

Both put as many closed-loop clients on the same model and send the same rows in the same order, in turns in random
order; BERT_WEIGHT is 0.5. docs/benchmarks.md says where perf_analyzer comes from.
"""

import csv
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from dualpath.cli import compare_view
from dualpath.compare import inputs, requests, target
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender, Turn
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, Timing, TurnSpec, on_server
from dualpath.compare.server import serving
from dualpath.readability.contract import EXCERPT, WEIGHT

ROOT = Path(__file__).resolve().parent.parent
DUALPATH, PERF_ANALYZER = "dualpath", "perf_analyzer"
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
    duration: Annotated[float, typer.Option(help="Seconds of each, for each model and number of clients.")] = 72.0,
    model_repository: Annotated[Path, typer.Option(help="With artifacts built.")] = ROOT / "model_repository",
) -> None:
    """Measure both load generators in turns and print a table for each model and concurrency."""
    source = inputs.read(input)
    console = Console(stderr=True, highlight=False)
    with serving(model_repository) as server:
        a, b = (target.read(server.client, name) for name in ("ensemble_all", "orchestrator"))
        pair = target.pair(a, b).given(source.has)
        rows = source.tensors(pair.inputs)
        rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
        on_triton = on_server(server.url, 60.0)
        for model in (a, b):
            sent = [requests.request(model, pair, [row]) for row in rows]

            def measure_turn(spec: TurnSpec, model: target.Target = model) -> Turn:
                if spec.contender.name == DUALPATH:
                    return on_triton(spec)
                return _theirs(perf_analyzer, server.url, model.name, rows, spec)

            def make(name: str, load: Load, sent: Sequence[bytes] = sent) -> Contender:
                return Contender(name, sent, [""] * len(sent))

            result = Result(model.name, [PERF_ANALYZER, DUALPATH])
            loads = [Load(1, int(clients)) for clients in concurrency.split(",")]
            with console.status(model.name):
                Measurement(result, loads, make, measure_turn, Timing(duration, 60.0)).run()
            compare_view.show(result, Console(width=150))


def _theirs(program: Path, url: str, model: str, rows: Sequence[Row], spec: TurnSpec) -> Turn:
    """Run perf_analyzer; it always begins with the first row of its file, so the file begins with row `start`."""
    first = spec.start % len(rows)
    with tempfile.TemporaryDirectory() as scratch:
        data, found = Path(scratch) / "rows.json", Path(scratch) / "found.csv"
        data.write_text(json.dumps({"data": [_as_json(row) for row in [*rows[first:], *rows[:first]]]}))
        command = [program, "-m", model, "-i", "grpc", "-u", url, "--input-data", data, "-f", found]
        command += ["--concurrency-range", str(spec.load.concurrency), "-s", ANY_PERCENT]
        command += ["--measurement-interval", str(round(spec.duration_s / N_WINDOWS * 1000))]
        for name, tensor in rows[0].tensors.items():
            command += ["--shape", f"{name}:{','.join(map(str, tensor.shape))}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0 or not found.is_file():
            raise SystemExit(f"perf_analyzer failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        with found.open(newline="") as lines:
            figures = next(csv.DictReader(lines))
    n_rows = round(float(figures["Inferences/Second"]) * spec.duration_s)
    return Turn(spec.duration_s, n_rows, 0, {"": [float(figures["p50 latency"]) / 1e3]})


def _as_json(row: Row) -> dict[str, list[object]]:
    excerpt, weight = row.tensors[EXCERPT.name], row.tensors[WEIGHT.name]
    return {EXCERPT.name: [excerpt.item().decode()], WEIGHT.name: [weight.item()]}


if __name__ == "__main__":
    typer.run(main)
