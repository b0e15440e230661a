"""The model repositories that `dualpath bench` serves: the user's as it is, or with an encoder built for it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST, MODELS
from dualpath.repository.folders import newest
from dualpath.repository.releases import newest_release


def default_work_dir() -> Path:
    """Return where this user's caches are, for this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualpath"


def build_encoder(work_dir: Path, shape: str, precision: str, report: Callable[[str], None]) -> Path:
    """Build the default models with this encoder in a folder of their own, or find them there up to date.

    In a process of its own: torch keeps the memory of a traced model, gigabytes of it, until the process ends.

    Returns:
        The folder, which holds `bert-large` and `cuml`.
    Raises:
        UserError: the folder cannot be written, or a package is missing.
    """
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
    process = context.Process(target=_build, args=(folder, shape, precision, theirs))
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


def _build(folder: Path, shape: str, precision: str, connection: Connection) -> None:
    def stop(*_: object) -> None:
        raise SystemExit  # which removes what is half built

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    from dualpath.training import build as training

    try:
        training.build(folder, precision, report=connection.send, encoder_shape=shape)
    except Exception as error:
        connection.send(error)
    else:
        connection.send(None)


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
