"""Measure the gate itself: does it call equal models different, does it find a slower one, what does checking cost?

    python benchmarks/gate.py same --times 20     # a model against itself: no verdict but "as fast" is right
    python benchmarks/gate.py slower              # a model that computes 10 % longer, at 1 client in the default time
    python benchmarks/gate.py checking            # the same load with and without its answers being checked
    python benchmarks/gate.py shadow              # docs/shadow.md's model with and without its challenger being asked

`docs/compare.md` and `docs/shadow.md` have the figures. The models compute for a fixed number of rounds, so they need a
quiet machine.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tritonclient.grpc import service_pb2

from dualpath.compare import compare, requests, target
from dualpath.compare.agreement import Agreement, LoadCheck
from dualpath.compare.load import Contender, Turn
from dualpath.compare.made_up import RandomRows
from dualpath.compare.requests import Wire
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, Timing, TurnSpec, on_server
from dualpath.compare.tolerance import tolerances
from dualpath.compare.verdict import judge
from dualpath.serving.client import connect
from dualpath.serving.server import TritonServer

MODEL = """
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.rounds, self.waits_s = (float(parameters[name]["string_value"]) for name in ("rounds", "waits_s"))
        self.matrix = np.full((32, 32), 0.01, np.float32)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        matrix = self.matrix
        time.sleep(self.waits_s)
        for _ in range(int(self.rounds)):
            matrix = np.tanh(matrix @ self.matrix)
        x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2 + matrix[0, 0])])
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 64 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 64 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
SHADOW = Path(__file__).resolve().parent.parent / "docs" / "shadow.md"
OVERHEAD_MS = 0.4
"""Of a request beside the model's computing, about."""

app = typer.Typer(add_completion=False, help=__doc__)


Rounds = Annotated[int, typer.Option(min=6, max=20, help="Turns of one second for each contender.")]


def rounds_for(ms: float) -> int:
    """Return for how many rounds a model computes so long on this machine."""
    matrix = np.full((32, 32), 0.01, np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(500):
            matrix = np.tanh(matrix @ matrix)
        best = min(best, (time.perf_counter() - started) / 500)
    return max(1, round(ms / 1e3 / best))


Parameters = Mapping[str, object]


def computing(rounds: float, waits_s: float = 0.0) -> Parameters:
    """Return the parameters of a model that waits so long and computes so many rounds."""
    return {"rounds": rounds, "waits_s": waits_s}


@contextmanager
def served(**models: Parameters) -> Iterator[str]:
    """Serve models by name, each with its parameters; give the address. Those with a champion are docs/shadow.md's."""
    with tempfile.TemporaryDirectory(prefix="dualpath-gate-") as folder:
        for name, parameters in models.items():
            version = Path(folder) / name / "1"
            version.mkdir(parents=True)
            (version / "model.py").write_text(_shadow_model() if "champion" in parameters else MODEL)
            lines = [
                f'parameters {{ key: "{key}" value {{ string_value: "{it}" }} }}' for key, it in parameters.items()
            ]
            (version.parent / "config.pbtxt").write_text(CONFIG + "\n".join(lines))
        with TritonServer(folder, http_port=0, grpc_port=0, metrics_port=0, server="embedded") as server:
            yield server.grpc_url


def _shadow_model() -> str:
    [text] = re.findall(r"^```python\n# shadow/1/model\.py\n(.*?)^```$", SHADOW.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


@app.command()
def same(times: int = 20, duration: float = 10.0, clients: int = 4, ms: float = 2.0) -> None:
    """Compare a model with itself at one load."""
    verdicts: Counter[str] = Counter()
    n_wrong = 0
    with served(model=computing(rounds_for(ms))) as url:
        for number in range(times):
            result = compare(
                "model",
                "model",
                url=url,
                n_random=40,
                seed=number,
                concurrency=[clients],
                batch=[1],
                duration_s=duration,
            )
            [cell] = result.cells
            name = result.contenders[1]
            verdict = judge(cell, name, result.contenders[0])
            verdicts[verdict] += 1
            n_wrong += result.failed
            print(f"{number + 1:2}  {verdict:18} {cell.compared[name].throughput}", flush=True)
    print(f"{times} comparisons: {n_wrong} with a difference in the answers; {dict(verdicts)}")


@app.command()
def slower(by: float = 0.10, ms: float = 5.0, times: int = 3) -> None:
    """Compare a model with one that takes longer, at 1 client in the default time."""
    rounds = rounds_for(ms)
    with served(model=computing(rounds), slow=computing(round(rounds * (1 + by)))) as url:
        for _ in range(times):
            result = compare("model", "slow", url=url, n_random=40, concurrency=[1], batch=[1])
            [cell] = result.cells
            compared = cell.compared["slow"]
            print(f"{judge(cell, 'slow', 'model')}: rows/s {compared.throughput}, p50 {compared.p50}", flush=True)


@app.command()
def checking(
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,8", rounds: Rounds = 20, ms: float = 1.0
) -> None:
    """Measure turns of one second with and without answers that are kept for checking, in random order."""
    with served(model=computing(rounds_for(ms - OVERHEAD_MS))) as url, closing(connect(url)) as client:
        model = target.read(client, "model")
        pair = target.pair(model, model)
        rows = RandomRows(200).tensors(pair.inputs)
        agreement = Agreement(("model", "model (again)"), [row.where for row in rows], tolerances(pair.outputs, {}, {}))
        check = LoadCheck(agreement, lambda name, answer: Wire(url, pair).decode(model, answer))
        bare = requests.contender("model", model, pair, rows, 1)
        for number in map(int, clients.split(",")):
            load = Load(1, number)
            contenders = {"bare": bare, "checked": replace(bare, kept=check.keep)}
            print(f"{load}: {_compared(url, load, contenders, rounds, check)}; {check}", flush=True)


@app.command()
def shadow(clients: str = "1,8", rounds: Rounds = 20, ms: float = 1.0) -> None:
    """Measure turns of one second in which no request and every request is put to the challenger, too."""
    work = computing(rounds_for(ms))
    roles: dict[str, Parameters] = {
        f"shadow_{it}": {"champion": "model", "challenger": it, "share": 0, "log_every_s": 1000}
        for it in ("elsewhere", "beside")
    }
    # A challenger on hardware of its own, and one that takes the champion's processors.
    with (
        served(model=work, elsewhere=computing(1, waits_s=0.005), beside=work, **roles) as url,
        closing(connect(url)) as client,
    ):
        for name in roles:
            model = target.read(client, name)
            pair = target.pair(model, model)
            alone = requests.contender(name, model, pair, RandomRows(200).tensors(pair.inputs), 1)
            share = service_pb2.ModelInferRequest()
            share.parameters["share"].string_param = "1"
            asked = replace(alone, requests=[it + share.SerializeToString() for it in alone.requests])
            for number in map(int, clients.split(",")):
                load, contenders = Load(1, number), {"A alone": alone, "B asked": asked}
                print(f"{name}, {load}: {_compared(url, load, contenders, rounds)}", flush=True)


def _compared(
    url: str, load: Load, contenders: dict[str, Contender], rounds: int, check: LoadCheck | None = None
) -> str:
    """Measure so many turns of one second of each of two contenders, and say how the second does against the first."""
    on_triton = on_server(url, 60.0)

    def measure_turn(spec: TurnSpec) -> Turn:
        turn = on_triton(spec)
        if check:
            check.settle(spec.contender, "under load")
        return turn

    result = Result(str(load), [*contenders])
    Measurement(result, [load], lambda name, _: contenders[name], measure_turn, Timing(float(rounds))).run()
    [cell], (baseline, name) = result.cells, result.contenders
    it = cell.compared[name]
    speed = f"{baseline} {cell.measured[baseline].rows_per_s:.0f} rows/s"
    return f"{speed}; {name} {it.throughput}, p50 {it.p50}, p99 {it.p99}"


if __name__ == "__main__":
    app()
