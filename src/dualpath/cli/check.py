"""`dualpath check`: what is wrong in a model repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from dualpath.cli.options import Json


def check(
    repository: Annotated[Path, Argument(metavar="MODEL_REPOSITORY", help="Folder of the models.", show_default=False)],
    cores: Annotated[
        int | None, Option(min=1, help="Cores of the machine that serves it [default: this machine's].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Name what is wrong in a model repository before Triton does: file, line, and what to write instead.

    The exit code is 1 if anything is wrong.
    """
    from dualpath.convert.check import check_repository

    findings = check_repository(repository, cores or os.cpu_count() or 1)
    if as_json:
        print(json.dumps([finding.as_data() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        n_models = sum(folder.is_dir() and not folder.name.startswith(".") for folder in repository.iterdir())
        print(f"{len(findings) or 'No'} finding{'s' * (len(findings) != 1)} in {n_models} models.")
    if findings:
        raise Exit(1)
