"""`dualpath compare`: do two models agree, and which is faster?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository
from dualpath.errors import UserError

CONCURRENCY, BATCH = "1,4,16", "1,8,64"
MOST = 10_000
"""Clients, or requests per second, beyond what one process can be."""


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="The baseline: a model, or one version as NAME:VERSION.")
    ] = "ensemble_all",
    b: Annotated[str, typer.Argument(metavar="B", help="The model that A is compared with.")] = "orchestrator",
    url: Annotated[
        str | None, typer.Option(help="Triton's gRPC address; without it, a server of its own is started.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="F.csv|F.json",
            help="CSV with a column for each input, or JSON as perf_analyzer's --input-data; else built-in excerpts.",
        ),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Shares of the requests by BERT_WEIGHT, such as 0:0.5,0.7:0.5.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Numbers of clients that wait for their answers.")] = CONCURRENCY,
    batch: Annotated[
        str | None, typer.Option(help=f"Rows per request.  [default: {BATCH}, as far as the models allow]")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests per second to send at random times, such as 5,20.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each model under each load.")] = 10.0,
    atol: Annotated[
        float | None,
        typer.Option(help="Largest difference between two answers.  [default: for the precision that is served]"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a client waits for an answer.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    as_json: Json = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an HTML report and its figures into this folder.")
    ] = None,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
) -> None:
    """Compare two models on one server: do they agree, and which is faster?

    First every input goes through both. Then they take short turns under each load, in random order, so that a
    drifting machine hits both; ratios have a 95 % interval. Ctrl-C ends with what was measured until then. Exit code 1:
    they differ by more than --atol, or the server went away.
    """
    from dualpath.cli.compare_view import show
    from dualpath.cli.ending import Ending
    from dualpath.compare import compare as compare_models
    from dualpath.compare import requests

    ending = Ending(show, as_json, report)
    compare_models(
        a,
        b,
        url=url,
        model_repository=model_repository,
        input_file=input_,
        mix=requests.parse_mix(mix) if mix is not None else None,
        concurrency=numbers("--concurrency", concurrency, int, MOST),
        batch=None if batch is None else numbers("--batch", batch, int),
        rate=[] if rate is None else numbers("--rate", rate, float, MOST),
        duration_s=duration,
        timeout_s=timeout,
        atol=atol,
        seed=seed,
        start=ending.start,
        on_progress=ending.show_progress,
        on_result=ending.finish,
    )
    raise typer.Exit(ending.exit_code)


def numbers(option: str, text: str, kind: type[int] | type[float], most: float = float("inf")) -> list[Any]:
    """Read "1,4,16"; each number has to be above 0 and at most so much."""
    found = []
    for part in text.split(","):
        try:
            number = kind(part)
        except ValueError:
            number = kind(0)
        if not 0 < number < float("inf"):
            what = "whole numbers" if kind is int else "numbers"
            raise UserError(
                f"{option}: expected {what} above 0, got {part.strip()!r}. Give some such as {CONCURRENCY}."
            )
        if number > most:
            raise UserError(f"{option}: expected at most {most:,}, got {part.strip()}. Give less.")
        found.append(number)
    return sorted(set(found))
