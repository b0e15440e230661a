"""The servers that `dualpath bench` needs: for each encoder one on the CPU, and those on a GPU that can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dualpath.compare.bench_models import build_encoder, with_artifacts
from dualpath.compare.run import OnProgress
from dualpath.compare.server import Server, Start, check_models, serving
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST
from dualpath.repository import folders
from dualpath.serving import gpus, installation, preflight

GPU_CONFIGS = (preflight.GPU, preflight.TEXT_ON_CPU)


@dataclass(frozen=True)
class Place:
    """One encoder on its servers.

    Attributes:
        repository: what is served.
        gpu: all of it on the GPU; None if that cannot be.
        text_on_cpu: only the two models on the GPU; None if that cannot be.
        why_not: the reasons by config name, such as "no GPU".
    """

    repository: Path
    encoder: str
    precision: str
    cpu: Server
    gpu: Server | None = None
    text_on_cpu: Server | None = None
    why_not: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def served(
    model_repository: Path,
    model: str,
    shape: str,
    precisions: Sequence[str],
    work_dir: Path,
    start: Start,
    on_progress: OnProgress,
) -> Iterator[list[Place]]:
    """Serve each encoder on the CPU, and on the GPU in each way that can be.

    Args:
        model: the one that will be asked if everything is in Triton.
        shape: of the encoder.
        precisions: of the encoder; none means the model repository as it is.
    Raises:
        UserError: it cannot be built or started.
    """
    check_models(model_repository, (model, BERT.name, FOREST.name))
    with ExitStack() as stack:
        places = []
        wanted: Sequence[str | None] = precisions or [None]
        for precision in wanted:
            chosen = model_repository
            if precision:
                scratch = Path(stack.enter_context(TemporaryDirectory(prefix="dualpath-bench-")))
                built = build_encoder(
                    work_dir, shape, precision, partial(_report, on_progress, f"{shape}, {precision}")
                )
                chosen = with_artifacts(model_repository, built, scratch)
            places.append(_serve(chosen, stack, start))
        yield places


def _report(on_progress: OnProgress, encoder: str, line: str) -> None:
    on_progress(f"{encoder}: {line}", 0.0)


def _serve(model_repository: Path, stack: ExitStack, start: Start) -> Place:
    cpu = stack.enter_context(serving(model_repository, start))
    on_gpu: dict[str, Server] = {}
    why_not: dict[str, str] = {}
    for config_name in GPU_CONFIGS:
        if why := why_no_gpu(model_repository, config_name):
            why_not[config_name] = why
        else:
            on_gpu[config_name] = stack.enter_context(serving(model_repository, start, config_name))
    encoder, precision = cpu.bert.encoder or "unknown", cpu.precision or "unknown"
    gpu, text_on_cpu = map(on_gpu.get, GPU_CONFIGS)
    return Place(model_repository, encoder, precision, cpu, gpu, text_on_cpu, why_not)


def why_no_gpu(model_repository: Path, config_name: str = preflight.GPU) -> str | None:
    """Say why the model repository cannot be served on a GPU here; None if it can."""
    if not gpus.gpu_visible():
        return "no GPU"
    models = folders.models(model_repository)
    try:
        preflight.check_config_name(models, config_name)
        preflight.check_devices(models, config_name, installation.find())
    except UserError as error:
        return str(error)
    return None
