"""`dualpath build`: make the files that the model repository serves."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Literal

from typer import Option

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository

Precision = Literal["float32", "bfloat16", "float16", "int8"]


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
