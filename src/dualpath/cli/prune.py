"""`dualpath prune`: remove releases that nothing serves."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from functools import partial
from typing import Annotated

from typer import Argument, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Json, ModelRepository, Url

UNLOAD_S = 60.0
"""How long to wait for versions that a reload has just left: a process ends after its last request."""


def prune(
    releases: Annotated[
        list[int] | None,
        Argument(metavar="[RELEASE]...", help="Remove these; by default all that are not needed."),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be removed.")] = False,
    offline: Annotated[bool, Option("--offline", help="Ask no server: none runs on this folder.")] = False,
    as_json: Json = False,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    url: Url = DEFAULT_URL,
) -> None:
    """Remove releases that nothing serves.

    The newest release stays, since the next start serves it; so do the versions that the server at --url has loaded,
    and those that an ensemble's step names. Code that you wrote is never removed.
    """
    from rich import filesize

    from dualpath.repository import folders, pruning
    from dualpath.serving.client import connect
    from dualpath.serving.loader import Loader

    folders.models(model_repository)

    report = partial(print, file=sys.stderr)

    def served() -> dict[str, set[int]]:
        with closing(connect(url)) as client:
            return Loader(client).unloaded(UNLOAD_S, report)

    gone = pruning.prune(model_repository, dict if offline else served, releases or (), dry_run, report)
    if as_json:
        print(json.dumps([{"path": str(path), "n_bytes": size} for path, size in gone.items()], indent=2))
        return
    for path, size in gone.items():
        what = "link" if size is None else filesize.decimal(size)
        print(f"{'would remove' if dry_run else 'removed'} {path} ({what})")
    if not gone:
        print("Nothing to remove: every release is needed, or has nothing of its own.")
