"""Which versions of a model repository belong together.

Release N is version N of every member. Members are the models whose config names files by `{version}`, such as
"../bert-large/{version}/tokenizer.json", the models that such a file belongs to, and what was published. So one number
stands for a pipeline whose parts fit. A member that a release does not change is a symbolic link to its version before.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from dualpath.errors import UserError
from dualpath.repository import configs, folders
from dualpath.repository.facts import FACTS_FILES

UNFINISHED = ".unfinished-"
"""How names of what is on its way into a model's folder begin. Triton takes no folder for a version whose name does not
begin with a digit."""


def readers(model_repository: Path) -> dict[str, set[str]]:
    """Return the models that read files by `{version}`, each with the names of the models that those belong to."""
    found: dict[str, set[str]] = {}
    for config in sorted(model_repository.glob("*/config.pbtxt")):
        by_version = [text for text in configs.parameters(configs.read_file(config)).values() if "{version}" in text]
        if by_version:
            parts = [PurePath(text).parts for text in by_version]
            found[config.parent.name] = {part[1] for part in parts if part[0] == ".." and part[2:3] == ("{version}",)}
    return found


def members(model_repository: Path) -> list[Path]:
    """Return the folders of the models that a release has: first those that are read, then those that read them."""
    reading = readers(model_repository)
    published = {path.parent.parent.name for name in FACTS_FILES for path in model_repository.glob(f"*/*/{name}")}
    read = sorted(published.union(*reading.values()) - reading.keys())
    return [model_repository / name for name in (*read, *reading) if (model_repository / name).is_dir()]


def newest_release(model_repository: Path) -> int | None:
    """Return the highest version of any member, None if there is none."""
    return max((int(path.name) for model in members(model_repository) for path in folders.filled(model)), default=None)


def releases(model_repository: Path) -> list[int]:
    """Return the numbers of the releases that are there, newest first: every member has that version."""
    numbers = [{int(path.name) for path in folders.filled(model)} for model in members(model_repository)]
    return sorted(set.intersection(*numbers), reverse=True) if numbers else []


def chosen(model_repository: Path, release: int | None) -> int | None:
    """Return the release of that number, by default the newest; None if there is none at all.

    Raises:
        UserError: there is no such release.
    """
    known = releases(model_repository)
    if release is not None and release not in known:
        raise UserError(
            f"release {release}: expected one of {', '.join(map(str, known)) or 'none'}, which are whole in "
            f"{model_repository}, got another. Name one of them."
        )
    return next(iter(known), None) if release is None else release


def steps(model: Path) -> list[Any]:
    """Return the steps of an ensemble's config as it stands on disk; none for another model.

    A step's `model_version` is -1 if it follows the newest, else the version that its author wants.
    """
    return list(configs.read(model).ensemble_scheduling.step)


def complete(model_repository: Path, release: int | None = None, but: tuple[str, ...] = ()) -> ExitStack:
    """Give every member, `but` some, a version of that number, by default the highest of any, as a link to its newest.

    To be called while `locked`.

    Returns:
        What removes these links again if it is closed.
    Raises:
        UserError: the folder cannot be written. No link stays.
    """
    release = newest_release(model_repository) if release is None else release
    with ExitStack() as undo:
        # Those that read artifacts first: if this is killed, they miss a file rather than read that of another version.
        for model in reversed(members(model_repository)):
            found, target = folders.filled(model), model / str(release)
            if not found or target in found or model.name in but:
                continue
            with suppress(OSError):
                target.rmdir()  # an empty folder is in the way
            try:
                # No hard links: they change the time stamps by which Triton finds the version before modified.
                target.symlink_to(found[0].resolve().name)
            except OSError as error:
                raise UserError(
                    f"{target}: expected version {release}, which other members have, got none, and a link to the "
                    f"version before cannot be written: {error.strerror}. Copy or link it yourself."
                ) from None
            undo.callback(target.unlink)
        return undo.pop_all()


@contextmanager
def locked(model_repository: Path, report: Callable[[str], object] = lambda line: None) -> Iterator[None]:
    """Wait for whoever changes or loads versions inside such a block; then let nobody else do so.

    A process's lock ends with it, however it ends; what it left unfinished is removed by the next.

    Args:
        report: gets a line if it has to wait.
    """
    import fcntl  # Windows has none, nor a server that needs it

    folder = os.open(model_repository, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"{model_repository}: waiting for another command that changes or loads its versions")
                fcntl.flock(folder, fcntl.LOCK_EX)
            for left_over in model_repository.glob(f"*/{UNFINISHED}*"):
                shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        os.close(folder)
