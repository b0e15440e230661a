"""The project's own model repository, which ships in the package: configs and code, without the built artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path

from dualpath.errors import UserError

TEMPLATE = Path(__file__).parent.parent / "model_repository"
"""In a checkout a link to the repository that lies there."""
FILES = ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/model.py", "*/1/.gitkeep")
"""What is written by hand; pyproject.toml puts the same files into the wheel."""


def write(folder: Path) -> list[Path]:
    """Write the project's model repository into an empty or new folder.

    Returns:
        The files, relative to the folder.
    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    files = sorted(file.relative_to(TEMPLATE) for pattern in FILES for file in TEMPLATE.glob(pattern))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: expected an empty folder, got one with files. Name another folder.")
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(TEMPLATE / file, folder / file)
    except OSError as error:
        raise UserError(
            f"{folder}: expected a folder to write to, got {error.strerror!r}. Name another folder."
        ) from None
    return files
