"""`dualpath scaffold`: a BLS model in place of an ensemble."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Exit, Option

from dualpath.cli.graph import ConfigFile, Ensemble
from dualpath.cli.options import Json


def scaffold(
    ensemble: Ensemble,
    out: Annotated[
        str | None, Option(metavar="NAME", help="Name of the new model [default: the ensemble's and _bls].")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace a model of that name.")] = False,
    inline: Annotated[
        bool, Option("--inline", help="Open nested ensembles, instead of calling each as one model.")
    ] = False,
    vendor: Annotated[
        bool,
        Option("--vendor", help="Put a copy of dualpath.bls beside the model, for servers that may not install it."),
    ] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write a BLS model that does what an ensemble does: config.pbtxt, 1/model.py and a unit test, to be edited.

    The exit code is 1 if the ensemble cannot be translated; then nothing is written.
    """
    from dualpath.convert.scaffold import Refused
    from dualpath.convert.scaffold import scaffold as write

    try:
        written = write(ensemble, out=out, config=config, force=force, inline=inline, vendor=vendor)
    except Refused as refused:
        if as_json:
            print(json.dumps({"refused": [finding.as_data() for finding in refused.findings]}, indent=2))
        else:
            for finding in refused.findings:
                print(finding)
            print("Nothing is written.")
        raise Exit(1) from None
    if as_json:
        data = {"folder": str(written.folder), "files": written.files, "notes": written.notes}
        print(json.dumps(data, indent=2))
        return
    for file in written.files:
        if not file.startswith("1/dualpath/"):
            print(f"{written.folder / file}")
    for note in written.notes:
        print(f"Note: {note}")
    name = written.folder.name
    print(f"Next: pytest {written.folder}; then serve both, and dualpath compare {ensemble.name} {name}.")
