"""Compare both styles with the same pipeline behind servers that are not Triton, all on this machine, in turns.

    pip install fastapi uvicorn litserve
    python benchmarks/other_servers.py --input ratings.csv

"FastAPI, 2 x 1" computes in two processes of one thread, with the engine that the project serves by. The other servers
are asked over HTTP in JSON. All are loaded, and the one whose turn it is computes. Scores are compared first.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.request import urlopen

import aiohttp
import psutil
import typer
from rich.console import Console

from dualpath.cli import compare_view
from dualpath.compare import inputs, requests, target
from dualpath.compare.connection import Send, over_grpc
from dualpath.compare.load import Contender
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, Timing, on_server
from dualpath.compare.server import serving
from dualpath.compare.tensors import decode
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, SCORE, TOLERANCES, WEIGHT

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ROOT / "benchmarks" / "others"
MODELS = ("ensemble_all", "orchestrator")
LOADS = (("weight 0.5", {0.5: 1.0}, (1, 16)), ("half weight 0", {0.0: 0.5, 0.5: 0.5}, (16,)))
START_S = 60.0
N_CHECKED = 32


class Other(NamedTuple):
    """A server that is not Triton."""

    program: str
    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.program}, {self.processes} x {self.threads}"

    def command(self, port: int) -> list[str]:
        if self.program == "LitServe":
            return [sys.executable, str(OTHERS / "by_litserve.py")]
        uvicorn = ["-m", "uvicorn", "--app-dir", str(OTHERS), "by_fastapi:app", "--log-level", "error"]
        return [sys.executable, *uvicorn, "--port", str(port), "--workers", str(self.processes)]


def main(
    input: Annotated[Path | None, typer.Option(help="As for `dualpath compare`; else the built-in excerpts.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each contender of a load.")] = 18.0,
    model_repository: Annotated[Path, typer.Option(help="With artifacts built.")] = ROOT / "model_repository",
) -> None:
    """Measure all servers in turns and print a table for each load."""
    n_cores = len(os.sched_getaffinity(0))
    others = [Other(program, *shape) for program in ("FastAPI", "LitServe") for shape in ((1, n_cores), (n_cores, 1))]
    source = inputs.read(input)
    with serving(model_repository) as server, ExitStack() as stack:
        targets = {name: target.read(server.client, name) for name in MODELS}
        pair = target.pair(*targets.values())
        rows = source.tensors(pair.inputs)
        ports = {str(it): stack.enter_context(_started(it, model_repository)) for it in others}
        tolerance = TOLERANCES[server.precision or "float32"]
        for title, mix, clients in LOADS:
            result = Result(title, [*MODELS, *ports])
            weighted = requests.weighted(rows, mix)
            first = requests.contender(MODELS[0], targets[MODELS[0]], pair, rows, 1, mix)
            bodies = [_body(weighted[number].tensors) for [number] in first.rows]

            def make(
                name: str, load: Load, first: Contender = first, bodies: Any = bodies, mix: Any = mix
            ) -> Contender:
                if name in targets:
                    return requests.contender(name, targets[name], pair, rows, load.batch, mix)
                return replace(first, name=name, requests=bodies, connect=_over_http(ports[name]))

            for name in ports:
                asyncio.run(_check(first, server.url, make(name, Load(1, 1)), tolerance))
            with Console(stderr=True).status(title):
                loads = [Load(1, n) for n in clients]
                Measurement(result, loads, make, on_server(server.url, 60.0), Timing(duration, 60.0)).run()
            compare_view.show(result, Console(width=150))


@contextmanager
def _started(other: Other, model_repository: Path) -> Iterator[int]:
    """Start a server, yield its port once it answers, and stop it with all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = {"MODEL_REPOSITORY": str(model_repository), "THREADS": str(other.threads)}
    settings |= {"PROCESSES": str(other.processes), "PORT": str(port)}
    process = subprocess.Popen(other.command(port), env={**os.environ, **settings})
    try:
        _await(other, process, port)
        yield port
    finally:
        if process.poll() is None:
            server = psutil.Process(process.pid)
            for each in (server, *server.children(recursive=True)):
                each.terminate()
        process.wait()


def _await(other: Other, process: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return
        time.sleep(0.2)
    if process.poll() is None:
        raise UserError(f"{other}: expected an answer within {START_S:g} s, got none. Look for what else is running.")
    raise UserError(
        f"{other}: expected a server, got exit code {process.returncode}. Run `pip install fastapi uvicorn litserve`."
    )


def _over_http(port: int) -> Any:
    @asynccontextmanager
    async def connect(_: str) -> AsyncIterator[Send]:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", raise_for_status=True) as session:

            async def send(body: Any) -> float:
                async with session.post("/score", json=body) as answer:
                    return float(await answer.json())

            yield send

    return connect


def _body(tensors: Any) -> dict[str, Any]:
    return {"excerpt": tensors[EXCERPT.name].item().decode(), "weight": tensors[WEIGHT.name].item()}


async def _check(triton: Contender, url: str, other: Contender, tolerance: float) -> None:
    """Raise UserError if another server's scores are not Triton's."""
    async with over_grpc(url) as ask_triton, other.connect(url) as ask_other:
        for number in range(min(N_CHECKED, len(other.requests))):
            response, got = [await ask(it.requests[number]) for ask, it in ((ask_triton, triton), (ask_other, other))]
            expected = decode(response)[SCORE.name].item()
            if not abs(expected - got) <= tolerance:
                raise UserError(f"{other.name}: expected the score {expected}, got {got}. Report it.")


if __name__ == "__main__":
    typer.run(main)
