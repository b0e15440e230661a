"""`dualpath graph`, `check`, `scaffold`: draw an ensemble, check a repository, write a BLS model for an ensemble."""

import json
import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from dualpath.cli.options import Json

EnsembleFolder = Annotated[
    Path, Argument(metavar="MODEL_REPOSITORY/ENSEMBLE", help="The ensemble's folder.", show_default=False)
]
ConfigFile = Annotated[
    Path | None,
    Option("--config", help="The ensemble's config, if it is not config.pbtxt in that folder.", metavar="FILE"),
]
Mermaid = Annotated[bool, Option("--mermaid", help="Print a Mermaid flow chart instead of text.")]


def graph(ensemble: EnsembleFolder, config: ConfigFile = None, mermaid: Mermaid = False, as_json: Json = False) -> None:
    """Draw an ensemble: its steps, and dtype and shape of each tensor between them. Nested ensembles are opened."""
    from dualpath.convert import draw
    from dualpath.convert.graph import load_ensemble

    found = load_ensemble(ensemble, config).graph
    if as_json:
        print(json.dumps(draw.as_data(found), indent=2))
    else:
        print(draw.as_mermaid(found) if mermaid else draw.as_text(found))


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


def scaffold(
    ensemble: EnsembleFolder,
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
    from dualpath.convert.scaffold import scaffold as write_scaffold

    try:
        written = write_scaffold(ensemble, out=out, config=config, force=force, inline=inline, vendor=vendor)
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
