"""The folders of a model repository: its models and their versions, as Triton finds them."""

from __future__ import annotations

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
            "Run in a checkout of Dualpath, or pass --model-repository."
        )
    found = sorted(path for path in repository.iterdir() if (path / "config.pbtxt").is_file() or versions(path))
    if not found:
        raise UserError(
            f"{repository}: expected folders with a config.pbtxt or a version, got none. Pass --model-repository."
        )
    return found


def versions(model: Path) -> list[Path]:
    """Return the model's version folders that hold something, newest first: 2, 1, 0."""
    return sorted(filter(is_version, model.glob("[0-9]*")), key=lambda path: int(path.name), reverse=True)


def is_version(folder: Path) -> bool:
    """Tell whether a folder is a version with files: its name is a number without leading zeros."""
    named = folder.name.isdecimal() and str(int(folder.name)) == folder.name
    return named and folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def newest(model: Path) -> Path:
    """Return the model's newest version folder, which Triton serves by default; "1" if there is none."""
    return next(iter(versions(model)), model / "1")
