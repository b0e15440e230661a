"""`dualpath graph`: an ensemble as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.options import Json

Ensemble = Annotated[
    Path, typer.Argument(metavar="MODEL_REPOSITORY/ENSEMBLE", help="The ensemble's folder.", show_default=False)
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The ensemble's config, if it is not config.pbtxt in that folder.", metavar="FILE"),
]
Mermaid = Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flow chart instead of text.")]


def graph(ensemble: Ensemble, config: ConfigFile = None, mermaid: Mermaid = False, as_json: Json = False) -> None:
    """Draw an ensemble: its steps, and dtype and shape of each tensor between them. Nested ensembles are opened."""
    from dualpath.convert import draw
    from dualpath.convert.models import load_ensemble

    found = load_ensemble(ensemble, config).graph
    if as_json:
        print(json.dumps(draw.as_data(found), indent=2))
    else:
        print(draw.as_mermaid(found) if mermaid else draw.as_text(found))
