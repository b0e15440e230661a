"""`dualpath init`: write the project's model repository into a folder."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

from typer import Argument

from dualpath.cli.options import DEFAULT_REPOSITORY
from dualpath.errors import UserError

TEMPLATE = Path(__file__).parent.parent / "model_repository"
"""Ships in the package; in a checkout a link to the repository that lies there."""
FILES = ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/model.py", "*/1/.gitkeep")
"""What is written by hand; pyproject.toml puts the same files into the wheel."""


def init(
    folder: Annotated[Path, Argument(metavar="DIR", help="An empty or new folder.")] = DEFAULT_REPOSITORY,
) -> None:
    """Write the project's model repository, configs and code, into an empty folder.

    An installed package needs no checkout then: build the models into it and serve it.
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
    for file in files:
        print(folder / file)
    option = "" if folder == DEFAULT_REPOSITORY else f" --model-repository {shlex.quote(str(folder))}"
    print(f"Next: dualpath build{option}, then dualpath serve{option}")
