"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Option

ModelRepository = Annotated[
    Path, Option("--model-repository", help="Folder of the models that Triton serves.", show_default=True)
]
Url = Annotated[str, Option("--url", help="Triton's gRPC address.", show_default=True)]
Json = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]

DEFAULT_REPOSITORY = Path("model_repository")
DEFAULT_URL = "localhost:8001"
