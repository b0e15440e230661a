"""The servers that `dualpath bench` needs: for each encoder one on the CPU, and one on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dualpath.cli.bench_models import build_encoder, with_artifacts
from dualpath.cli.comparison import Server
from dualpath.cli.serve import start
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST
from dualpath.repository.facts import Facts
from dualpath.repository.folders import models, newest
from dualpath.serving import installation, preflight

if TYPE_CHECKING:
    from rich.console import Console

GPU_CONFIG = "gpu"


@dataclass(frozen=True)
class Place:
    """One encoder on its servers.

    Attributes:
        repository: what is served.
        gpu: None where set-up 3 cannot be.
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
    model_repository: Path, model: str, shape: str, precisions: Sequence[str], work_dir: Path, console: Console
) -> Iterator[list[Place]]:
    """Serve each encoder on the CPU, and on the GPU where there is one.

    Args:
        model: the one that will be asked where everything is in Triton.
        shape: of the encoder.
        precisions: of the encoder; none means the model repository as it is.
    Raises:
        UserError: it cannot be built or started.
    """
    known = {folder.name for folder in models(model_repository)}
    if missing := sorted({model, BERT.name, FOREST.name} - known):
        raise UserError(f"{missing[0]}: expected a model of {model_repository}, which has {', '.join(sorted(known))}.")
    with ExitStack() as stack:
        places = []
        wanted: Sequence[str | None] = precisions or [None]
        for precision in wanted:
            chosen = model_repository
            if precision:
                scratch = Path(stack.enter_context(TemporaryDirectory(prefix="dualpath-bench-")))
                chosen = with_artifacts(model_repository, _built(shape, precision, work_dir, console), scratch)
            places.append(_serve(chosen, stack, console))
        yield places


def _built(shape: str, precision: str, work_dir: Path, console: Console) -> Path:
    with console.status("") as status:
        where = f"{shape}, {precision}"
        return build_encoder(work_dir, shape, precision, lambda line: status.update(f"{where}: {line}"))


def _serve(model_repository: Path, stack: ExitStack, console: Console) -> Place:
    facts = Facts.of(newest(model_repository / BERT.name))
    precision = facts.precision or "unknown"

    def serve(config_name: str | None = None) -> Server:
        triton = stack.enter_context(start(model_repository, console, config_name=config_name))
        return stack.enter_context(closing(Server(triton.grpc_url, triton, precision)))

    cpu, why = serve(), why_no_gpu(model_repository)
    gpu = serve(GPU_CONFIG) if why is None else None
    return Place(model_repository, facts.encoder or "unknown", precision, cpu, gpu, why or "")


def why_no_gpu(model_repository: Path) -> str | None:
    """Say why the model repository cannot be served on a GPU here; None where it can."""
    if not preflight.gpu_visible():
        return "no GPU"
    found = models(model_repository)
    try:
        preflight.check_config_name(found, GPU_CONFIG)
        preflight.check_devices(found, GPU_CONFIG, installation.find())
    except UserError as error:
        return str(error)
    return None
