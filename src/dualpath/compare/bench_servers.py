"""What `dualpath bench` serves: the user's repository or one with an encoder built for it, on the CPU and on a GPU."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from dualpath.compare.run import OnProgress
from dualpath.compare.server import Server, Start, check_models, serving
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST, MODELS
from dualpath.repository import folders
from dualpath.repository.folders import newest
from dualpath.repository.releases import newest_release
from dualpath.serving import gpus, installation, preflight

GPU_CONFIGS = (preflight.GPU, preflight.TEXT_ON_CPU)


@dataclass(frozen=True)
class ServedEncoder:
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
def serve_setups(
    model_repository: Path,
    model: str,
    shape: str,
    precisions: Sequence[str],
    work_dir: Path,
    start: Start,
    on_progress: OnProgress,
) -> Iterator[list[ServedEncoder]]:
    """Serve an encoder of each precision on the CPU, and on the GPU in each way that can be.

    Args:
        model: the one that will be asked if everything is in Triton.
        precisions: none means the model repository as it is.
    """
    check_models(model_repository, (model, BERT.name, FOREST.name))
    with ExitStack() as stack:
        places = []
        for precision in precisions or [None]:  # type: ignore[list-item]
            chosen = model_repository
            if precision:
                scratch = Path(stack.enter_context(TemporaryDirectory(prefix="dualpath-bench-")))

                def report(line: str, encoder: str = f"{shape}, {precision}") -> None:
                    on_progress(f"{encoder}: {line}", 0.0)

                chosen = with_artifacts(model_repository, build_encoder(work_dir, shape, precision, report), scratch)
            places.append(_serve(chosen, stack, start))
        yield places


def _serve(model_repository: Path, stack: ExitStack, start: Start) -> ServedEncoder:
    cpu = stack.enter_context(serving(model_repository, start))
    why_not = {name: why for name in GPU_CONFIGS if (why := why_no_gpu(model_repository, name))}
    gpu, text_on_cpu = (
        None if name in why_not else stack.enter_context(serving(model_repository, start, name)) for name in GPU_CONFIGS
    )
    encoder, precision = cpu.bert.encoder or "unknown", cpu.precision or "unknown"
    return ServedEncoder(model_repository, encoder, precision, cpu, gpu, text_on_cpu, why_not)


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


def default_work_dir() -> Path:
    """Return where this user's caches are, for this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualpath"


def build_encoder(work_dir: Path, shape: str, precision: str, report: Callable[[str], None]) -> Path:
    """Build `bert-large` with this encoder, and `cuml`, in a folder of their own, or find them there up to date.

    In a process of its own: torch keeps the memory of a traced model, gigabytes of it, until the process ends.
    """
    from dualpath.training.build import build_for_parent

    folder = work_dir / f"{shape}-{precision}"
    try:
        for model in (BERT, FOREST):
            (folder / model.name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--work-dir: expected a folder to write to, got {str(folder)!r}: {error.strerror}. Name another."
        ) from None
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=build_for_parent, args=(folder, shape, precision, theirs))
    process.start()
    theirs.close()
    try:
        while isinstance(said := ours.recv(), str):
            report(said)
        process.join()  # terminated while it ends by itself, it would print what it was doing
    except EOFError:
        said = UserError(f"{folder}: expected a finished build, got one that was killed. Make room in memory.")
    finally:
        process.terminate()
        process.join()
    if said is not None:
        raise said
    return folder


def with_artifacts(model_repository: Path, artifacts: Path, target: Path) -> Path:
    """Return a model repository in `target`: the configs and the code of one, the built files of another."""
    built = {model.name for model in MODELS if model.artifact}

    def versions(folder: str, names: list[str]) -> list[str]:
        own = [name for name in names if name.isdecimal()] if Path(folder).name in built else []
        return [*own, "__pycache__"]

    repository = target / "model_repository"
    shutil.copytree(model_repository, repository, ignore=versions)
    version = str(newest_release(model_repository) or 1)
    for name in built:
        (repository / name / version).mkdir()
        for file in newest(artifacts / name).iterdir():
            (repository / name / version / file.name).symlink_to(file.absolute())
    return repository
