"""`dualpath init`, `build`: write the model repository, and the files that it serves."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository
from dualpath.errors import UserError

TEMPLATE = Path(__file__).parent.parent / "model_repository"
"""Ships in the package; in a checkout a link to the repository that lies there."""
FILES = ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/model.py", "*/1/.gitkeep")
"""What is written by hand; pyproject.toml puts the same files into the wheel."""
Precision = Literal["float32", "bfloat16", "float16", "int8"]


def init(folder: Annotated[Path, Argument(metavar="DIR", help="An empty or new folder.")] = DEFAULT_REPOSITORY) -> None:
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


def build(
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    precision: Annotated[
        Precision,
        Option(
            help="What BERT computes in. float16 is for GPUs, int8 for CPUs with OpenVINO: elsewhere they are slower."
        ),
    ] = "float32",
    format: Annotated[
        Literal["torchscript", "openvino"],
        Option(
            help="openvino also writes BERT for Triton's C++ openvino backend (never run), into REPOSITORY.openvino."
        ),
    ] = "torchscript",
    force: Annotated[bool, Option("--force", help="Build even what is up to date.")] = False,
    as_json: Json = False,
) -> None:
    """Build the model artifacts: BERT's TorchScript and tokenizer, the forest and its word lists."""
    from rich import filesize
    from rich.console import Console
    from rich.table import Table

    from dualpath.training import build as training

    progress = Console(stderr=True)
    with progress.status("building") as status:

        def report(line: str) -> None:
            progress.print(line, highlight=False)
            status.update(line)

        artifacts = training.build(model_repository, precision, force, report)
        if format == "openvino":
            report("bert-large: for the openvino backend")
            artifacts.append(training.build_openvino(model_repository))
    if as_json:
        print(json.dumps([dataclasses.asdict(artifact) for artifact in artifacts], default=str, indent=2))
        return
    table = Table("model", "artifact", "size", "seconds")
    table.columns[1].overflow = "fold"
    for artifact in artifacts:
        seconds = "up to date" if artifact.up_to_date else f"{artifact.elapsed_s:.1f}"
        table.add_row(artifact.model, str(artifact.path), filesize.decimal(artifact.n_bytes), seconds)
    Console().print(table)
