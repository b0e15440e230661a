"""The parts of `make gpu`: each measures or checks one thing and returns rows for a table.

A part is a function of `Settings`. It returns what it found, raises Skip if it cannot run here, and anything else if it
failed. In a rehearsal torch's CPU plays the GPU and the figures mean nothing.
"""

import dataclasses
import itertools
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from gpu_settings import (
    GPU_TOLERANCES,
    ROOT,
    SHAPES,
    Found,
    Settings,
    Skip,
    configs,
    model_and_inputs,
    repositories,
    repository,
)

from dualpath import compare
from dualpath.compare import setups
from dualpath.compare.bench_servers import build_encoder
from dualpath.compare.result import Load
from dualpath.compare.run import TurnSpec, on_server
from dualpath.compare.server import start_quietly
from dualpath.readability.contract import BERT, ENSEMBLE, FOREST, POSTPROCESS, SCORERS
from dualpath.repository.folders import newest
from dualpath.serving import TritonServer, gpus
from dualpath.serving.client import Scorer, connect
from dualpath.serving.doctor import diagnose


def machine(settings: Settings) -> Found:
    """What is installed and what should be possible."""
    import torch

    diagnosis = diagnose(settings.model_repository)
    rows = [dataclasses.asdict(setup) | {"engines": str(setup.engines)} for setup in diagnosis.setups]
    facts = dict(diagnosis.machine)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["card"] = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
    return Found([{key: row[key] for key in ("name", "engines", "missing")} for row in rows], facts)


def tests(settings: Settings) -> Found:
    """The tests of tests/gpu."""
    report = settings.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, check=False)
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        said = next((child.get("message", "") for child in case if child.tag == outcome), "")
        rows.append({"test": case.get("name"), "outcome": outcome, "why": said[:200]})
    return Found(rows, wrong=[str(row["test"]) for row in rows if row["outcome"] in ("failure", "error")])


def parity(settings: Settings) -> Found:
    """Both styles' scores, one by one and as one batch, against the CPU's in float32."""
    from dualpath.readability.reference import Reference

    excerpts, found = settings.excerpts()[:64], Found()
    weights = np.array([0, 1, 0.5, 0.25], np.float32)[np.arange(len(excerpts)) % 4]
    in_float32 = settings.model_repository
    if not settings.rehearse:
        in_float32 = build_encoder(settings.work_dir, "minilm", "float32", print)
    expected = Reference(in_float32, engine="torch").score(excerpts, weights)
    for precision in settings.precisions:
        with repository(settings, "minilm", precision) as models:
            for config in configs(settings, models):
                with start_quietly(models, config) as server, closing(connect(server.grpc_url)) as client:
                    for scorer in SCORERS:
                        ask = Scorer(client, scorer.name).score
                        alone = np.concatenate([ask([e], w[None]) for e, w in zip(excerpts, weights, strict=True)])
                        for how, got in (("alone", alone), ("one batch", ask(excerpts, weights))):
                            apart = float(np.abs(got - expected).max())
                            row = {"precision": precision, "config": config, "model": scorer.name, "rows": how}
                            found.rows.append(row | {"largest difference": apart})
                            if not apart <= GPU_TOLERANCES[precision]:
                                found.wrong.append(f"{row}: {apart:.2g} apart, allowed {GPU_TOLERANCES[precision]:g}")
    return found


def hops(settings: Settings) -> Found:
    """`is_cpu()` of the tensors that reach each model: such a model scores 1 if none of its inputs lies on the host."""
    excerpts, found = settings.excerpts()[:4], Found()
    for config in configs(settings, settings.model_repository):
        for telling in ((BERT, FOREST), (POSTPROCESS,)):
            with TemporaryDirectory(prefix="dualpath-gpu-") as folder:
                models = repositories.told_where(settings.model_repository, Path(folder), *telling)
                with start_quietly(models, config) as server, closing(connect(server.grpc_url)) as client:
                    askers = SCORERS if POSTPROCESS not in telling else [ENSEMBLE]
                    for model, asked in itertools.product(telling, askers):
                        # The score is the model's own.
                        weights = np.full(len(excerpts), 0 if model is FOREST else 1, np.float32)
                        on_gpu = Scorer(client, asked.name).score(excerpts, weights).tolist() == [1] * len(excerpts)
                        row = {"config": config, "asked": asked.name, "reaches": model.name, "on the GPU": on_gpu}
                        found.rows.append(row)
                        if config == "gpu" and not on_gpu:
                            found.wrong.append(f"{asked.name}, {model.name}: expected inputs on the GPU, got the host")
    return found


def copies(settings: Settings) -> Found:
    """Copies between host and device while BERT's stand-in computes, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    found = Found()
    with repository(settings, "minilm", "float32") as models:
        model, batch, _ = model_and_inputs(settings, newest(models / BERT.name), 8)
        for _ in range(3):
            model.run(batch)
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not settings.rehearse)) as profiled:
            model.run(batch)
        events = [event.name for event in profiled.events() if event.name.startswith("Memcpy")]
    for kind in ("HtoD", "DtoH", "DtoD"):
        found.rows.append({"copy": kind, "number": sum(kind in name for name in events)})
    found.wrong = [name for name in events if "DtoH" in name]
    return found


def in_process(settings: Settings) -> Found:
    """BERT's model.pt in this process: what the served pipeline is measured by."""
    import torch

    found = Found()
    wait: Callable[[], object] = (lambda: None) if settings.rehearse else torch.cuda.synchronize
    for shape, precision in itertools.product(settings.shapes, settings.precisions):
        with repository(settings, shape, precision) as models:
            for batch in settings.batches:
                row: dict[str, Any] = {"shape": shape, "precision": precision, "batch": batch}
                try:
                    model, tensors, n_tokens = model_and_inputs(settings, newest(models / BERT.name), batch)
                    for _ in range(3):
                        model.run(tensors)
                    wait()
                    n_calls, started = 0, time.perf_counter()
                    while n_calls < 3 or time.perf_counter() - started < settings.duration_s / 5:
                        model.run(tensors)
                        wait()
                        n_calls += 1
                    elapsed_s = time.perf_counter() - started
                    row |= {"ms": 1e3 * elapsed_s / n_calls, "rows/s": batch * n_calls / elapsed_s}
                    row |= {"tokens a row": n_tokens, "padded to": tensors[0].shape[1]}
                except torch.cuda.OutOfMemoryError as error:
                    row["error"] = str(error).partition("\n")[0]
                found.rows.append(row)
    return found


def speed(settings: Settings, shape: str) -> Found:
    """Every set-up at every batch size, by `dualpath bench`, which compares their scores first."""
    if shape not in settings.shapes:
        raise Skip("too long for a rehearsal")
    found = Found()
    for precision in settings.precisions:
        result = compare.bench(
            model_repository=settings.model_repository,
            input_file=settings.input_file,
            batch=settings.batches,
            duration_s=settings.duration_s,
            encoder_shape=shape,
            precisions=[] if settings.rehearse else [precision],
            work_dir=settings.work_dir,
            on_progress=lambda text, fraction: print(f"{fraction:4.0%} {text}", flush=True),
        )
        for cell in result.cells:
            for name, it in cell.measured.items():
                row = {"shape": shape, "precision": precision, "batch": cell.load.batch, "set-up": name}
                found.rows.append(row | {"p50 ms": it.latencies_ms.get(50), "rows/s": it.rows_per_s})
        found.facts |= {f"not measured, {precision}": cell.not_measured for cell in result.cells[:1]}
        found.wrong += [f"{precision}: {result.verdict}"] if result.failed else []
    return found


def styles(settings: Settings) -> Found:
    """The orchestrator against the ensemble, by `dualpath compare`."""
    found = Found()
    with repository(settings, "minilm", settings.precisions[-1]) as models:
        for config in configs(settings, models):
            result = compare.compare(
                model_repository=models,
                input_file=settings.input_file,
                concurrency=(1,) if settings.rehearse else (1, 16),
                batch=(1,) if settings.rehearse else (1, 64),
                duration_s=settings.duration_s,
                start=lambda folder, config_name=None, config=config: start_quietly(folder, config),
            )
            for cell in result.cells:
                for name, it in cell.measured.items():
                    row = {"config": config, "load": str(cell.load), "model": name}
                    found.rows.append(row | {"p50 ms": it.latencies_ms.get(50), "rows/s": it.rows_per_s})
            found.facts[f"verdict, {config}"] = result.verdict
            found.wrong += [result.verdict] if result.failed else []
    return found


def chunk_rows(settings: Settings) -> Found:
    """The orchestrator with several values of bert_chunk_rows, 16 clients."""
    found, n_rows = Found(), 2 if settings.rehearse else 32
    with repository(settings, "minilm", settings.precisions[-1]) as models:
        for config in configs(settings, models):
            for chunk in (2, 4) if settings.rehearse else (8, 32, 64, 128, 256, 512):
                with TemporaryDirectory() as folder:
                    changed = repositories.with_chunk_rows(models, Path(folder), chunk)
                    with start_quietly(changed, config) as server:
                        setup = setups.InTriton("orchestrator", server.grpc_url, "orchestrator")
                        contender = setup.contender(setups.batches(settings.excerpts(), n_rows))
                        order = TurnSpec(contender, Load(n_rows, 16), settings.duration_s, 0, True)
                        turn = on_server(server.grpc_url, 120)(order)
                row: dict[str, Any] = {"config": config, "bert_chunk_rows": chunk, "rows a request": n_rows}
                row |= {"rows/s": turn.rows_per_s, "p50 ms": float(np.median(turn.all_ms())), "errors": turn.n_errors}
                found.rows.append(row)
    return found


def memory(settings: Settings) -> Found:
    """Memory of the server's processes and of the GPU over 10,000 requests, a tenth at a time."""
    found, n_requests = Found(), 20 if settings.rehearse else 10_000
    excerpts, most_rows = settings.excerpts(), 2 if settings.rehearse else 8
    with repository(settings, "minilm", settings.precisions[-1]) as models:
        for config in configs(settings, models):
            with (
                start_quietly(models, config) as server,
                closing(connect(server.grpc_url)) as client,
                ThreadPoolExecutor(8) as pool,
            ):

                def ask(number: int, client: Any = client) -> None:
                    model = SCORERS[number % len(SCORERS)].name
                    some = [excerpts[(number + place) % len(excerpts)] for place in range(1 + number % most_rows)]
                    Scorer(client, model).score(some, np.full(len(some), 0.5, np.float32))

                for part in range(10):
                    list(pool.map(ask, range(part * n_requests // 10, (part + 1) * n_requests // 10)))
                    done = (part + 1) * n_requests // 10
                    found.rows.append({"config": config, "requests": done, **_memory_mb(server)})
            measured = found.rows[-10:]
            for what in ("host MB", "GPU MB"):
                grown = (measured[-1][what] or 0) - (measured[2][what] or 0)  # the first 30 % fill caches
                found.facts[f"{what} grown after the first 30 %, {config}"] = grown
                if not settings.rehearse and grown > 64:
                    found.wrong.append(f"{config}: {what} grew by {grown:.0f} over {n_requests * 7 // 10} requests")
    return found


def _memory_mb(server: TritonServer) -> dict[str, float | None]:
    processes = psutil.Process(server.pid)
    host = sum(process.memory_info().rss for process in (processes, *processes.children(recursive=True)))
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout if gpus.gpu_visible() else ""
    return {"host MB": host / 1e6, "GPU MB": float(said.splitlines()[0]) if said else None}


PARTS: dict[str, Callable[[Settings], Found]] = {
    "machine": machine,
    "tests": tests,
    "parity": parity,
    "hops": hops,
    "copies": copies,
    "in-process": in_process,
    **{f"speed-{shape}": partial(speed, shape=shape) for shape in SHAPES},
    "styles": styles,
    "chunk-rows": chunk_rows,
    "memory": memory,
}
