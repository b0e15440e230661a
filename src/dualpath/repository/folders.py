"""The folders of a model repository: its models and their versions, as Triton finds them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualpath.errors import UserError


def models(repository: Path) -> list[Path]:
    """Return the folders of the repository's models, by name: those with a config.pbtxt or with a version.

    Raises:
        UserError: the repository is missing or holds no model.
    """
    if not repository.is_dir():
        raise UserError(
            f"{repository}: expected a model repository, got no such folder. "
            "Pass --model-repository, or write one by `dualpath init`."
        )
    found = sorted(path for path in repository.iterdir() if (path / "config.pbtxt").is_file() or versions(path))
    if not found:
        raise UserError(
            f"{repository}: expected folders with a config.pbtxt or a version, got none. Pass --model-repository."
        )
    return found


def versions(model: Path) -> list[Path]:
    """Return the model's version folders as Triton finds them, newest first: 10, 2, 0."""
    # A number with leading zeros is no version to Triton.
    found = [path for path in model.glob("[0-9]*") if path.name.isdecimal() and str(int(path.name)) == path.name]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name), reverse=True)


def filled(model: Path) -> list[Path]:
    """Return those of the model's version folders that hold something, newest first."""
    return [path for path in versions(model) if any(not file.name.startswith(".") for file in path.iterdir())]


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Raise BlockingIOError if a living process is inside such a block with the same folder or file."""
    import fcntl  # Windows has none, nor a server that needs it

    # NFS lets only those lock a file who may write to it; a folder cannot be opened so.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def newest(model: Path) -> Path:
    """Return the model's newest version folder, which Triton serves by default; "1" if there is none."""
    return next(iter(versions(model)), model / "1")
