"""`dualpath reload`, `prune`: let a running server take another release, and remove those that nothing serves."""

import dataclasses
import json
import sys
import time
from contextlib import closing
from functools import partial
from typing import Annotated

from typer import Argument, Exit, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Json, ModelRepository, Url

UNLOAD_S = 30.0
"""How long to wait for versions that a reload has just left: a process ends after its last request."""


def reload(
    model: Annotated[
        str | None, Argument(metavar="[MODEL]", help="Change this model alone, or load its changed code and config.")
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


def prune(
    releases: Annotated[
        list[int] | None, Argument(metavar="[RELEASE]...", help="Remove these; by default all that are not needed.")
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

    only = releases or ()
    if offline:
        gone = pruning.prune(model_repository, dict, only, dry_run, report)
    else:
        with closing(connect(url)) as client:
            server = Loader(client)
            server.await_unloaded(UNLOAD_S, report)  # before others have to wait for this command
            gone = pruning.prune(model_repository, server.present, only, dry_run, report)
    if as_json:
        print(json.dumps([{"path": str(path), "n_bytes": size} for path, size in gone.items()], indent=2))
        return
    for path, size in gone.items():
        what = "link" if size is None else filesize.decimal(size)
        print(f"{'would remove' if dry_run else 'removed'} {path} ({what})")
    if not gone:
        print("Nothing to remove: every release is needed, or has nothing of its own.")
