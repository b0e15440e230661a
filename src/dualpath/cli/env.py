"""`dualpath env`: the environment that the Python models run in."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Option, Typer

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository

app = Typer(help="Run the Python models in an environment of their own.", no_args_is_help=True)

ModelNames = Annotated[list[str] | None, Option("--models", help="A Python model, repeatable; by default all.")]


@app.command()
def pack(
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    models: ModelNames = None,
    output: Annotated[
        Path | None, Option(help="One archive for all models (.tar.gz); by default each gets it in its folder.")
    ] = None,
    python: Annotated[
        str | None, Option(help="Interpreter of the environment, 3.11 or 3.12; by default this one.")
    ] = None,
    with_: Annotated[
        list[str] | None, Option("--with", help="A further requirement, such as `cudf-cu13`; repeatable.")
    ] = None,
    environment: Annotated[
        Path | None, Option(help="Pack this virtual or Conda environment instead of a new one.")
    ] = None,
    server: Annotated[str, Option(help="Triton server, as for `dualpath serve`.")] = "auto",
    stub: Annotated[
        Path | None, Option(help="Triton's triton_python_backend_stub for a Python that the server has none for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a Python environment and make the Python models run in it (Triton's EXECUTION_ENV_PATH).

    A new environment holds this package and what the models import. Inside Conda, the active environment is packed.
    """
    from rich import filesize
    from rich.console import Console

    from dualpath.errors import UserError
    from dualpath.serving import packing
    from dualpath.serving.environment import python_models

    if environment is None and python is None and (Path(sys.prefix) / "conda-meta").is_dir():
        environment = Path(sys.prefix)
    if environment is not None and (python or with_):
        raise UserError("--environment: expected no --python and no --with beside it, got one. Leave out either.")
    progress = Console(stderr=True)
    with progress.status("Packing") as status:
        packed = packing.pack(
            python_models(model_repository, models or []),
            python=python or sys.executable,
            requirements=with_ or [],
            folder=environment,
            output=output,
            server=server,
            stub=stub,
            report=status.update,
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(packed), default=str, indent=2))
        return
    print(f"archive  {packed.archive} ({filesize.decimal(packed.n_bytes)})")
    print(f"Python   {packed.python}{', with a stub of its own' if packed.own_stub else ''}")
    print(f"models   {', '.join(packed.models)}")
    if packed.needs:
        print(f"It links to the Python in {packed.needs}, which must be there where the server runs.")


@app.command()
def remove(model_repository: ModelRepository = DEFAULT_REPOSITORY, models: ModelNames = None) -> None:
    """Undo `env pack`: run the Python models in the server's own Python again."""
    from dualpath.serving.environment import detach, python_models

    done = detach(python_models(model_repository, models or []))
    print(f"removed from {', '.join(model.name for model in done)}" if done else "nothing to remove")
