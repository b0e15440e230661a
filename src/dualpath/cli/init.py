"""`dualpath init`: write the project's model repository into a folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.options import DEFAULT_REPOSITORY


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")] = DEFAULT_REPOSITORY,
) -> None:
    """Write the project's model repository, configs and code, into an empty folder.

    An installed package needs no checkout then: build the models into it and serve it.
    """
    from dualpath.repository import template

    for file in template.write(folder):
        print(folder / file)
    option = "" if folder == DEFAULT_REPOSITORY else f" --model-repository {shlex.quote(str(folder))}"
    print(f"Next: dualpath build{option}, then dualpath serve{option}")
