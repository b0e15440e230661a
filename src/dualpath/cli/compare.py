"""`dualpath compare`: do two models agree, and which is faster?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dualpath.cli.options import DEFAULT_REPOSITORY, ModelRepository
from dualpath.errors import UserError

CONCURRENCY, BATCH = "1,4,16", "1,8,64"
MOST = 10_000
"""Clients, or requests per second, beyond what one process can be."""


Texts = list[str] | None
AGREE, GATE, ROWS, SHOW = "What has to agree", "Gate", "Rows", "Output"


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="The baseline: a model, or one version as NAME:VERSION.")
    ] = "ensemble_all",
    b: Annotated[str, typer.Argument(metavar="B", help="The model that is compared with it.")] = "orchestrator",
    url: Annotated[
        str | None,
        typer.Option(
            help="Triton's gRPC address (grpcs://HOST:PORT with TLS), or http://HOST:PORT; without it, a server of its "
            "own is started."
        ),
    ] = None,
    header: Annotated[
        Texts, typer.Option(metavar="NAME:VALUE", help="Sent with each request to --url; may be repeated.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Numbers of clients that wait for their answers.")] = CONCURRENCY,
    batch: Annotated[
        str | None, typer.Option(help=f"Rows per request.  [default: {BATCH}, as far as the models allow]")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests per second to send at random times, such as 5,20.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each model under each load.")] = 10.0,
    timeout: Annotated[float, typer.Option(help="Seconds that a client waits for an answer.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="CSV, JSON lines, Parquet or .xlsx with a column for each input, or JSON as perf_analyzer's "
            "--input-data; else built-in excerpts.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Make up N rows from the models' metadata.", rich_help_panel=ROWS),
    ] = None,
    shape: Annotated[
        Texts,
        typer.Option(metavar="INPUT:3,8", help="Of a made-up input with free dimensions.", rich_help_panel=ROWS),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help="Shares of the requests by BERT_WEIGHT, such as 0:0.5,0.7:0.5.", rich_help_panel=ROWS),
    ] = None,
    atol: Annotated[
        Texts,
        typer.Option(
            metavar="X|OUTPUT=X",
            help="Largest difference between two floats, of all outputs or of one; may be repeated.  "
            "[default: for the precision that is served, else units in the last place]",
            rich_help_panel=AGREE,
        ),
    ] = None,
    rtol: Annotated[
        Texts,
        typer.Option(metavar="X|OUTPUT=X", help="The same, as a share of A's value; adds up.", rich_help_panel=AGREE),
    ] = None,
    ignore: Annotated[
        Texts, typer.Option(metavar="OUTPUT", help="Do not compare it; may be repeated.", rich_help_panel=AGREE)
    ] = None,
    expect_differences: Annotated[
        Texts,
        typer.Option(
            metavar="NAME=VALUE",
            help="Rows with this value of an input or output may differ (also NAME<VALUE, NAME>VALUE); "
            "they are counted apart.",
            rich_help_panel=AGREE,
        ),
    ] = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Decide by the conditions below; if there is none, by the answers alone.",
            rich_help_panel=GATE,
        ),
    ] = False,
    max_p50_ratio: Annotated[
        float | None,
        typer.Option(metavar="X", help="B's median latency over A's, at most.", rich_help_panel=GATE),
    ] = None,
    max_p99_ratio: Annotated[
        float | None, typer.Option(metavar="X", help="The same of the 99th percentile.", rich_help_panel=GATE)
    ] = None,
    min_throughput_ratio: Annotated[
        float | None,
        typer.Option(metavar="X", help="B's rows per second over A's, at least.", rich_help_panel=GATE),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=SHOW)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write an HTML report and its figures into this folder.", rich_help_panel=SHOW
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md", help="Append a summary in Markdown, as a pull request shows it.", rich_help_panel=SHOW
        ),
    ] = None,
    saved: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="RESULT.json",
            help="Show a saved --json instead of measuring; given twice, set the second against the first.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
) -> None:
    """Compare two models on one server: do they agree, and which is faster?

    First their answers: every row alone, in shuffled batches of each --batch, and among other requests; then every
    answer under load. Each is compared with A's answer to that row alone. Then their speed: short turns under each
    load, in random order, so that a drifting machine hits both; ratios have a 95 % interval. Ctrl-C ends with what was
    measured until then.

    Exit code 1: answers differ beyond the tolerance, nothing had to agree, a request failed, the server went away, or a
    condition of the gate does not hold. 3: a condition cannot be decided on the interval of its ratio.
    """
    from dualpath.cli.compare_view import show
    from dualpath.cli.ending import Ending
    from dualpath.compare import compare as compare_models
    from dualpath.compare import requests, saved_results
    from dualpath.compare.gate import Condition

    limits = {"p50": max_p50_ratio, "p99": max_p99_ratio, "throughput": min_throughput_ratio}
    conditions = [Condition(measure, limit) for measure, limit in limits.items() if limit is not None]
    ending = Ending(show, as_json, report, summary)
    if saved:
        ending.finish(saved_results.show(saved, conditions))
        raise typer.Exit(ending.exit_code)
    compare_models(
        a,
        b,
        url=url,
        headers=_headers(header),
        model_repository=model_repository,
        input_file=input_,
        mix=requests.parse_mix(mix) if mix is not None else None,
        concurrency=numbers("--concurrency", concurrency, int, MOST),
        batch=None if batch is None else numbers("--batch", batch, int),
        rate=[] if rate is None else numbers("--rate", rate, float, MOST),
        duration_s=duration,
        timeout_s=timeout,
        atol=_by_output("--atol", atol),
        rtol=_by_output("--rtol", rtol),
        ignore=ignore or (),
        expect_differences=expect_differences or (),
        conditions=conditions,
        n_random=random,
        shapes=_shapes(shape),
        seed=seed,
        start=ending.start,
        on_progress=ending.show_progress,
        on_result=ending.finish,
    )
    raise typer.Exit(ending.exit_code)


def _by_output(option: str, texts: Texts) -> dict[str, float]:
    """Read ["1e-3", "PROBS=1e-4"] as {"": 1e-3, "PROBS": 1e-4}."""
    found = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"{option}: expected a number or OUTPUT=NUMBER, got {text!r}. Correct it.") from None
    return found


def _headers(texts: Texts) -> dict[str, str]:
    """Read ["Authorization: Bearer x"] as {"Authorization": "Bearer x"}."""
    found = {}
    for text in texts or ():
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UserError(f"--header: expected NAME:VALUE, got {text!r}. Correct it.")
        found[name.strip()] = value.strip()
    return found


def _shapes(texts: Texts) -> dict[str, list[int]]:
    """Read ["IMAGE:3,8,8"] as {"IMAGE": [3, 8, 8]}."""
    found = {}
    for text in texts or ():
        name, _, sizes = text.rpartition(":")
        try:
            found[name] = [int(size) for size in sizes.split(",")]
        except ValueError:
            raise UserError(f"--shape: expected INPUT:SIZE,…, such as IMAGE:3,8,8, got {text!r}. Correct it.") from None
    return found


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
