"""`dualpath reload`: let a running server take the newest release, or an older one."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Annotated

from typer import Argument, Exit, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Json, ModelRepository, Url


def reload(
    model: Annotated[
        str | None,
        Argument(metavar="[MODEL]", help="Change this model alone, or load its changed code and config."),
    ] = None,
    to: Annotated[
        int | None, Option(metavar="RELEASE", help="Serve this release, such as an older one; see models.")
    ] = None,
    drain_timeout: Annotated[
        float, Option(min=0, metavar="SECONDS", help="How long the requests that began before may take to end.")
    ] = 120,
    as_json: Json = False,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    url: Url = DEFAULT_URL,
) -> None:
    """Let a running server change to the newest release, without a request lost or half-answered.

    A release is one version number of all models that belong together. While it changes, both releases are in memory.
    If the new one does not load, the old one goes on, and the exit code is 1. The folder must be the one that the
    server loads.
    """
    from rich.console import Console

    from dualpath.repository import folders, releases
    from dualpath.serving.client import connect
    from dualpath.serving.loader import ReloadFailed
    from dualpath.serving.reload import reload_release

    folders.models(model_repository)
    client = connect(url)
    console = Console(stderr=True)
    started = time.monotonic()
    try:
        with console.status("") as status:

            def report(line: str) -> None:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                status.update(line)

            done = reload_release(
                client, model_repository, model=model, to=to, drain_timeout_s=drain_timeout, report=report
            )
    except ReloadFailed as error:
        print(f"dualpath: {error}", file=sys.stderr)
        raise Exit(1) from None
    finally:
        client.close()
    elapsed_s = round(time.monotonic() - started, 1)
    if as_json:
        print(json.dumps({**dataclasses.asdict(done), "elapsed_s": elapsed_s}, indent=2))
    elif done.loaded:
        print(f"{done.loaded} is served as its code and config are now, after {elapsed_s} s.")
    elif done.before:
        print(f"Release {done.release} is served, after {elapsed_s} s.")
    else:
        print("Nothing new." if done.release is None else f"Nothing new: release {done.release} is served.")
    newest = releases.chosen(model_repository, None)
    if not as_json and done.release != newest:
        print(f"A restart takes release {newest}, until you remove it: `dualpath prune {newest}`.")
