"""Publish versions: each appears whole or not at all, under a new number."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dualpath.errors import UserError
from dualpath.repository import folders, releases
from dualpath.repository.facts import Facts

Write = Callable[[Path], Facts]
"""Fills an empty folder with a version's files; returns what is known of them."""


def publish(
    model_repository: Path, versions: Mapping[str, Write], report: Callable[[str], object] = lambda line: None
) -> int:
    """Write a new version of each model, and return its number: the next release's, 1 in a repository without one.

    Each folder appears whole and in one step, its file of facts in it, and every other member of the release has that
    version already. If anything fails, nothing changes. A running server goes on with what it has loaded, until
    `dualpath reload`.

    Args:
        versions: by the model's name, what writes its version.
        report: gets a line if another command has to end first, such as a reload.
    """
    check_target(model_repository, versions)
    with ExitStack() as stack:
        try:
            scratch, is_locked = stack.enter_context(_beside(model_repository)), False
        except OSError:
            # Only inside: there a load would find the model modified while its new version is being written.
            stack.enter_context(releases.locked(model_repository, report))
            inside = tempfile.TemporaryDirectory(
                dir=model_repository / next(iter(versions)), prefix=releases.UNFINISHED
            )
            scratch, is_locked = Path(stack.enter_context(inside)), True
        new = {model: scratch / model for model in versions}
        for model, folder in new.items():
            folder.mkdir()
            versions[model](folder).write(folder)
        if not is_locked:
            stack.enter_context(releases.locked(model_repository, report))
        number = _next_number(model_repository, versions)
        with releases.complete(model_repository, number, but=tuple(versions)) as undo:
            for model, folder in new.items():
                target = model_repository / model / str(number)
                os.rename(folder, target)
                undo.callback(os.rename, target, folder)
            undo.pop_all()
    return number


def _next_number(model_repository: Path, models: Iterable[str]) -> int:
    """One above the newest of all; the newest itself if these models have no version yet."""
    found = [int(path.name) for model in models for path in folders.filled(model_repository / model)]
    newest = releases.newest_release(model_repository)
    if found:
        return max([*found, *([] if newest is None else [newest])]) + 1
    return 1 if newest is None else newest


def check_target(model_repository: Path, models: Iterable[str]) -> None:
    """Raise UserError if a model is missing or cannot be written to, or a config is none, before the long work."""
    for model in models:
        folder = model_repository / model
        if not folder.is_dir():
            raise UserError(
                f"{model_repository}: expected a model repository with {model}, got none in it. "
                "Name it with --model-repository, or write one by `dualpath init`."
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: expected a folder to write to, got one that cannot be written. Give it rights.")
    releases.readers(model_repository)


@contextmanager
def _beside(model_repository: Path) -> Iterator[Path]:
    """Give a temporary folder beside the model repository; remove those that killed processes have left there.

    Raises:
        OSError: there can be none, or what is made there cannot be renamed into the repository.
    """
    parent, prefix = model_repository.resolve().parent, ".publishing-"
    if parent.stat().st_dev != model_repository.stat().st_dev:
        raise OSError(errno.EXDEV, "another file system", str(parent))
    for left_over in parent.glob(f"{prefix}*"):
        with suppress(OSError), folders.alone_in(left_over):
            shutil.rmtree(left_over)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, folders.alone_in(Path(name)):
        yield Path(name)
