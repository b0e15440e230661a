"""A training run's folder: what is done already, so that the same command goes on where it was interrupted."""

import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.repository.folders import alone_in
from dualpath.training.bert.settings import Evaluation

PartReport = Callable[[str, int, int, str], object]
"""Gets a part's name, how much of it is done, how much it is, and a note."""

SETTINGS = "settings.json"
LOG = "log.csv"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to; if the block succeeds it replaces `path` in one step."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


class RunFolder:
    """A folder that holds finished parts by name; everything in it is replaced whole.

    settings.json says what the run is of; log.csv has a line per evaluation; `<part>.npz` is a finished part's
    result, `<part>.pt` the checkpoint of one under way.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, part: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return a finished part's arrays; None if it is not finished."""
        path = self.folder / f"{part}.npz"
        if not path.is_file():
            return None
        with np.load(path) as arrays:
            return dict(arrays)

    def finish(self, part: str, **arrays: npt.ArrayLike) -> None:
        """Keep a part's result and drop its checkpoints, those of `<part>.<anything>` too."""
        with written_whole(self.folder / f"{part}.npz") as new, new.open("wb") as file:
            np.savez(file, **arrays)
        for checkpoint in (self.checkpoint(part), *self.folder.glob(f"{part}.*.pt")):
            checkpoint.unlink(missing_ok=True)

    def checkpoint(self, part: str) -> Path:
        """Return where a part's checkpoint is kept."""
        return self.folder / f"{part}.pt"

    def log(self, part: str, history: Sequence[Evaluation]) -> None:
        """Put a part's evaluations into log.csv, in place of those that it has of that part."""
        path, columns = self.folder / LOG, ["part", *(field.name for field in dataclasses.fields(Evaluation))]
        lines: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                lines = [line for line in csv.DictReader(file) if line["part"] != part]
        lines += [{"part": part} | dataclasses.asdict(evaluation) for evaluation in history]
        with written_whole(path) as new, new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(lines)


@contextmanager
def opened(folder: Path, settings: Mapping[str, Any], fresh: bool = False) -> Iterator[RunFolder]:
    """Open a run's folder for this process alone, made if it is missing.

    Args:
        settings: what the run is of; a folder that holds another's is refused.
        fresh: forget what it holds.
    Raises:
        UserError: the folder cannot be written, holds another run, or another process works in it.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (lock := folder / ".lock").touch()
            stack.enter_context(alone_in(lock))
        except BlockingIOError:
            raise UserError(
                f"--run-dir {folder}: expected a folder of its own, got another run's. Name another folder."
            ) from None
        except OSError as error:
            raise UserError(
                f"--run-dir {folder}: expected a folder to write to, got: {error.strerror}. Name another."
            ) from None
        if fresh:
            for path in (path for pattern in ("*.npz", "*.pt", LOG, SETTINGS) for path in folder.glob(pattern)):
                path.unlink()
        _check(folder, json.loads(json.dumps(settings, default=str)))
        yield RunFolder(folder)


def _check(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        with written_whole(path) as new:
            new.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(settings.keys() | found.keys()):
        if found.get(name) != settings.get(name):
            raise UserError(
                f"--run-dir {folder}: expected a run with {name} {settings.get(name)}, got one with "
                f"{found.get(name)}. Name another folder, or forget this run with --fresh."
            )


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return eight digits that tell runs apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
