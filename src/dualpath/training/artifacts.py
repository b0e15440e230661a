"""Files and versions that appear whole or not at all, and what they were made from."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import MissingExtra
from dualpath.readability import releases


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed(*packages: str, extra: str = "models") -> dict[str, str]:
    """Return the packages' versions without importing them; a missing one is a UserError that names the extra."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtra(package, extra) from None
    return versions


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside `folder`; when the block succeeds, move its files into `folder`, each in one step.

    When the block fails, `folder` stays as it was.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as name:
        new = Path(name)
        yield new
        for path in sorted(new.iterdir()):
            os.replace(path, folder / path.name)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to; when the block succeeds it replaces `path` in one step."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def publishing(model_repository: Path, models: Sequence[str], version: int | None) -> Iterator[Mapping[str, Path]]:
    """Give an empty folder for each model; when the block succeeds, they become that version of the models.

    Each folder appears whole and in one step, in the place of its predecessor where there is one, and every other
    member of the release has that version already. When the block fails, nothing changes; where the process is killed,
    each model has either its old or its new files. A running server goes on with what it has loaded; it can change to a
    new version (`dualpath reload`), but not to one that took the place of the version that it serves.

    Args:
        models: names of models of the repository.
        version: the version to write or to replace; None is one above the newest of all.
    Raises:
        UserError: see `check_target`.
    """
    check_target(model_repository, models, version)
    enter: AbstractContextManager[None] = releases.locked(model_repository)
    with ExitStack() as stack:
        try:
            name = stack.enter_context(_beside(model_repository))
        except OSError:
            # Only inside: there a load would find the model modified while its new version is being written.
            stack.enter_context(enter)
            inside = model_repository / models[0]
            name = stack.enter_context(tempfile.TemporaryDirectory(dir=inside, prefix=releases.UNFINISHED))
            enter = nullcontext()
        new = {model: Path(name) / model for model in models}
        for folder in new.values():
            folder.mkdir()
        yield new
        with enter:
            number = releases.newest_release(model_repository) + 1 if version is None else version
            releases.complete(model_repository, number, but=tuple(models))
            for model, folder in new.items():
                _put(folder, model_repository / model / str(number))


def check_target(model_repository: Path, models: Sequence[str], version: int | None) -> None:
    """Raise UserError where a model is missing or cannot be written to, or no version of that number can be."""
    for model in models:
        folder = model_repository / model
        if not folder.is_dir():
            raise UserError(f"{model_repository}: expected a model repository with {model}, found none in it.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: expected a folder to write to, found one that cannot be written.")
    if version is not None and version < 1:
        raise UserError(f"version: expected a number from 1, found {version}.")


@contextmanager
def _beside(model_repository: Path) -> Iterator[str]:
    """Give a temporary folder beside the model repository; remove those that killed processes have left there.

    Raises:
        OSError: there can be none, or what is made there cannot be renamed into the repository.
    """
    parent, prefix = model_repository.resolve().parent, ".publishing-"
    if parent.stat().st_dev != model_repository.stat().st_dev:
        raise OSError(errno.EXDEV, "another file system", str(parent))
    for left_over in parent.glob(f"{prefix}*"):
        with suppress(OSError), _alone_in(left_over):
            shutil.rmtree(left_over)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, _alone_in(Path(name)):
        yield name


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Raise OSError where a living process is inside such a block with the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _put(folder: Path, target: Path) -> None:
    """Move a folder to its place in one step. What was there goes to the versions that are links to it, if any."""
    if not target.exists():
        folder.rename(target)
        return
    (folder / releases.REPLACED).touch()
    links = [path for path in releases.versions(target.parent) if path.is_symlink() and path.samefile(target)]
    _exchange(folder, target)
    if target in links:  # it was a link itself, to a version that stays
        return
    for number, link in enumerate(links):
        if number == 0:
            _exchange(folder, link)
        else:
            link.unlink()
            link.symlink_to(links[0].name)


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, for which Python has no names
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) != 0:
        # A file system that cannot exchange: for a moment there is neither, which the next who locks mends.
        before = other.with_name(f"{releases.UNFINISHED}{other.name}")
        other.rename(before)
        one.rename(other)
        before.rename(one)
