"""`dualpath compare`: do two models agree, and which is faster?"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, ModelRepository
from dualpath.errors import UserError

CONCURRENCY, BATCH = "1,4,16", "1,8,64"
MOST = 10_000
"""Clients, or requests per second, beyond what one process can be."""

Texts = list[str] | None
RowsOption, AgreeOption, GateOption, ShowOption = (
    partial(Option, rich_help_panel=panel) for panel in ("Rows", "What has to agree", "Gate", "Output")
)


def compare(
    a: Annotated[
        str, Argument(metavar="A", help="The baseline: a model, or one version as NAME:VERSION.")
    ] = "ensemble_all",
    b: Annotated[str, Argument(metavar="B", help="The model that is compared with it.")] = "orchestrator",
    url: Annotated[
        str | None,
        Option(
            help="Triton's gRPC address (grpcs://HOST:PORT with TLS), or http://HOST:PORT; without it, a server of its "
            "own is started."
        ),
    ] = None,
    header: Annotated[
        Texts, Option(metavar="NAME:VALUE", help="Sent with each request to --url; may be repeated.")
    ] = None,
    concurrency: Annotated[str, Option(help="Numbers of clients that wait for their answers.")] = CONCURRENCY,
    batch: Annotated[
        str | None, Option(help=f"Rows per request.  [default: {BATCH}, as far as the models allow]")
    ] = None,
    rate: Annotated[str | None, Option(help="Requests per second to send at random times, such as 5,20.")] = None,
    duration: Annotated[float, Option(help="Seconds for each model under each load.")] = 10.0,
    timeout: Annotated[float, Option(help="Seconds that a client waits for an answer.")] = 30.0,
    seed: Annotated[int, Option(help="Of all that is random.")] = 0,
    input_file: Annotated[
        Path | None,
        RowsOption(
            "--input",
            metavar="FILE",
            help="CSV, JSON lines, Parquet or .xlsx with a column for each input, or JSON as perf_analyzer's "
            "--input-data; else built-in excerpts.",
        ),
    ] = None,
    random: Annotated[
        int | None, RowsOption(metavar="N", min=1, help="Make up N rows from the models' metadata.")
    ] = None,
    shape: Annotated[Texts, RowsOption(metavar="INPUT:3,8", help="Of a made-up input with free dimensions.")] = None,
    mix: Annotated[str | None, RowsOption(help="Shares of the requests by BERT_WEIGHT, such as 0:0.5,0.7:0.5.")] = None,
    atol: Annotated[
        Texts,
        AgreeOption(
            metavar="X|OUTPUT=X",
            help="Largest difference between two floats, of all outputs or of one; may be repeated.  "
            "[default: for the precision that is served, else units in the last place]",
        ),
    ] = None,
    rtol: Annotated[
        Texts, AgreeOption(metavar="X|OUTPUT=X", help="The same, as a share of A's value; adds up.")
    ] = None,
    ignore: Annotated[Texts, AgreeOption(metavar="OUTPUT", help="Do not compare it; may be repeated.")] = None,
    expect_differences: Annotated[
        Texts,
        AgreeOption(
            metavar="NAME=VALUE",
            help="Rows with this value of an input or output may differ (also NAME<VALUE, NAME>VALUE); "
            "they are counted apart.",
        ),
    ] = None,
    gate: Annotated[
        bool, GateOption("--gate", help="Decide by the conditions below; if there is none, by the answers alone.")
    ] = False,
    max_p50_ratio: Annotated[
        float | None, GateOption(metavar="X", help="B's median latency over A's, at most.")
    ] = None,
    max_p99_ratio: Annotated[float | None, GateOption(metavar="X", help="The same of the 99th percentile.")] = None,
    min_throughput_ratio: Annotated[
        float | None, GateOption(metavar="X", help="B's rows per second over A's, at least.")
    ] = None,
    as_json: Annotated[bool, ShowOption("--json", help="Print JSON instead of tables.")] = False,
    report: Annotated[
        Path | None, ShowOption(metavar="DIR", help="Write an HTML report and its figures into this folder.")
    ] = None,
    summary: Annotated[
        Path | None, ShowOption(metavar="FILE.md", help="Append a summary in Markdown, as a pull request shows it.")
    ] = None,
    saved: Annotated[
        list[Path] | None,
        ShowOption(
            "--from",
            metavar="RESULT.json",
            help="Show a saved --json instead of measuring; given twice, set the second against the first.",
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
    from dualpath.cli.compare_view import Ending, show
    from dualpath.compare import compare as compare_models
    from dualpath.compare import saved_results
    from dualpath.compare.gate import Condition
    from dualpath.compare.requests import parse_mix

    limits = {"p50": max_p50_ratio, "p99": max_p99_ratio, "throughput": min_throughput_ratio}
    conditions = [Condition(measure, limit) for measure, limit in limits.items() if limit is not None]
    ending = Ending(show, as_json, report, summary)
    if saved:
        ending.finish(saved_results.show(saved, conditions))
        raise Exit(ending.exit_code)
    ending.after(
        compare_models,
        a=a,
        b=b,
        url=url,
        input_file=input_file,
        n_random=random,
        headers=dict(map(_header, header or ())),
        shapes=dict(map(_shape, shape or ())),
        mix=None if mix is None else parse_mix(mix),
        concurrency=numbers("--concurrency", concurrency, int, MOST),
        batch=None if batch is None else numbers("--batch", batch, int),
        rate=() if rate is None else numbers("--rate", rate, float, MOST),
        atol=dict(_tolerance("--atol", it) for it in atol or ()),
        rtol=dict(_tolerance("--rtol", it) for it in rtol or ()),
        ignore=ignore or (),
        expect_differences=expect_differences or (),
        conditions=conditions,
        duration_s=duration,
        timeout_s=timeout,
        seed=seed,
        model_repository=model_repository,
    )


def _tolerance(option: str, text: str) -> tuple[str, float]:
    """Read "1e-3" as ("", 1e-3) and "PROBS=1e-4" as ("PROBS", 1e-4)."""
    name, _, value = text.rpartition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise UserError(f"{option}: expected a number or OUTPUT=NUMBER, got {text!r}. Correct it.") from None


def _header(text: str) -> tuple[str, str]:
    """Read "Authorization: Bearer x" as ("Authorization", "Bearer x")."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UserError(f"--header: expected NAME:VALUE, got {text!r}. Correct it.")
    return name.strip(), value.strip()


def _shape(text: str) -> tuple[str, list[int]]:
    """Read "IMAGE:3,8,8" as ("IMAGE", [3, 8, 8])."""
    name, _, sizes = text.rpartition(":")
    try:
        return name, [int(size) for size in sizes.split(",")]
    except ValueError:
        raise UserError(f"--shape: expected INPUT:SIZE,…, such as IMAGE:3,8,8, got {text!r}. Correct it.") from None


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
