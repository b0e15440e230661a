"""What a model repository holds, as far as starting a server on it needs to know."""

from __future__ import annotations

import re
from pathlib import Path

from dualpath.errors import UserError
from dualpath.readability import releases


def models(repository: Path) -> list[Path]:
    """Return the folders of the repository's models, by name.

    Raises:
        UserError: the repository is missing or holds no model.
    """
    if not repository.is_dir():
        raise UserError(
            f"expected a model repository at {repository}, found no such folder; "
            "run in a checkout of Dualpath or pass --model-repository"
        )
    found = sorted(folder.parent for folder in repository.glob("*/config.pbtxt"))
    if not found:
        raise UserError(
            f"expected models in {repository}, found no folder with a config.pbtxt; pass --model-repository"
        )
    return found


def complete_release(repository: Path) -> None:
    """Give every model that belongs to the newest release its version, while the repository is locked.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        releases.complete(repository)
    except OSError as error:
        raise UserError(
            f"{repository}: expected version {releases.newest_release(repository)} of "
            f"{', '.join(model.name for model in releases.members(repository))}, found none of some, and "
            f"{error.filename} cannot be written: {error.strerror}. Copy or link it from the version before."
        ) from None


def is_python(model: Path) -> bool:
    """Say whether a model is served by the Python backend."""
    return bool(re.search(r'backend\s*:\s*"python"', config_text(model)))


def config_text(model: Path, config_name: str | None = None) -> str:
    """Return the text of the config that Triton would load, without its comments."""
    named = model / "configs" / f"{config_name}.pbtxt"
    chosen = named if config_name and named.is_file() else model / "config.pbtxt"
    return re.sub(r"#.*", "", chosen.read_text(encoding="utf-8"))
