"""The servers that `dualpath bench` needs: for each encoder one on the CPU, and one on the GPU if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dualpath.compare.bench_models import build_encoder, with_artifacts
from dualpath.compare.run import OnProgress
from dualpath.compare.server import Server, Start, check_models, serving
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST
from dualpath.repository import folders
from dualpath.serving import installation, preflight

GPU_CONFIG = "gpu"


@dataclass(frozen=True)
class Place:
    """One encoder on its servers.

    Attributes:
        repository: what is served.
        gpu: None if set-up 3 cannot be.
        why_no_gpu: then the reason, such as "no GPU".
    """

    repository: Path
    encoder: str
    precision: str
    cpu: Server
    gpu: Server | None
    why_no_gpu: str


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
    """Serve each encoder on the CPU, and on the GPU if there is one.

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
                report = partial(_report, on_progress, f"{shape}, {precision}")
                built = build_encoder(work_dir, shape, precision, report)
                chosen = with_artifacts(model_repository, built, scratch)
            places.append(_serve(chosen, stack, start))
        yield places


def _report(on_progress: OnProgress, encoder: str, line: str) -> None:
    on_progress(f"{encoder}: {line}", 0.0)


def _serve(model_repository: Path, stack: ExitStack, start: Start) -> Place:
    cpu, why = stack.enter_context(serving(model_repository, start)), why_no_gpu(model_repository)
    gpu = stack.enter_context(serving(model_repository, start, GPU_CONFIG)) if why is None else None
    return Place(model_repository, cpu.bert.encoder or "unknown", cpu.precision or "unknown", cpu, gpu, why or "")


def why_no_gpu(model_repository: Path) -> str | None:
    """Say why the model repository cannot be served on a GPU here; None if it can."""
    if not preflight.gpu_visible():
        return "no GPU"
    models = folders.models(model_repository)
    try:
        preflight.check_config_name(models, GPU_CONFIG)
        preflight.check_devices(models, GPU_CONFIG, installation.find())
    except UserError as error:
        return str(error)
    return None
