"""The versions that a model repository holds, and which of them belong together.

Release N is version N of every member: of the models with artifacts, and of the models whose config names files of
theirs by `{version}`, such as "../bert-large/{version}/tokenizer.json". So one number stands for a pipeline whose parts
fit. A member that a release does not change is a symbolic link to its version before.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualpath.readability.contract import MODELS

CHILDREN = tuple(model.name for model in MODELS if model.artifact)
"""The members with artifacts."""

UNFINISHED = ".unfinished-"
"""How names of what is on its way into a model's folder begin. Triton takes no folder for a version whose name does not
begin with a digit."""

REPLACED = ".replaced"
"""A file in a version that has taken the place of another, which a running server may have loaded."""


def versions(model: Path) -> list[Path]:
    """Return the model's version folders, newest first: 2, 1."""
    folders = [path for path in model.glob("[1-9]*") if path.name.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def newest(model: Path) -> Path:
    """Return the model's newest version folder, which is the one that Triton serves; "1" where there is none."""
    return next(iter(versions(model)), model / "1")


def members(model_repository: Path) -> list[Path]:
    """Return the folders of the models that a release has: first those with artifacts, then those that read them."""
    children = [model_repository / name for name in CHILDREN if (model_repository / name).is_dir()]
    configs = sorted(model_repository.glob("*/config.pbtxt"))
    readers = [path.parent for path in configs if "{version}" in re.sub(r"#.*", "", path.read_text(encoding="utf-8"))]
    return children + [model for model in readers if model not in children]


def newest_release(model_repository: Path) -> int:
    """Return the highest version of any member, 0 where there is none."""
    return max((int(path.name) for model in members(model_repository) for path in _filled(model)), default=0)


def complete(model_repository: Path, release: int | None = None, but: tuple[str, ...] = ()) -> None:
    """Give every member, `but` some, a version of that number, by default the highest of any, as a link to its newest.

    To be called while `locked`.
    """
    release = newest_release(model_repository) if release is None else release
    # Those that read artifacts first: where this is killed, they miss a file rather than read that of another version.
    for model in reversed(members(model_repository)):
        found, target = _filled(model), model / str(release)
        if found and target not in found and model.name not in but:
            with suppress(OSError):
                target.rmdir()  # an empty folder is in the way
            # No hard links: they change the time stamps by which Triton finds the version before modified.
            target.symlink_to(found[0].resolve().name)


def start_anew(model_repository: Path) -> None:
    """Note that a server which starts now loads the versions as they are."""
    for mark in model_repository.glob(f"*/*/{REPLACED}"):
        with suppress(OSError):
            mark.unlink()


def _filled(model: Path) -> list[Path]:
    return [path for path in versions(model) if any(not file.name.startswith(".") for file in path.iterdir())]


@contextmanager
def locked(model_repository: Path) -> Iterator[None]:
    """Wait for whoever changes or loads versions inside such a block; then let nobody else do so.

    A process's lock ends with it, however it ends; what it left unfinished is removed by the next.
    """
    folder = os.open(model_repository, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
            for left_over in model_repository.glob(f"*/{UNFINISHED}*"):
                target = left_over.with_name(left_over.name.removeprefix(UNFINISHED))
                if target.name.isdecimal() and not target.exists():
                    left_over.rename(target)
                else:
                    shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        os.close(folder)
