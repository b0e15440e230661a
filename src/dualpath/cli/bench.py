"""`dualpath bench`: how fast is the pipeline on this machine, by where its steps run and by batch size?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.compare import MOST, numbers
from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository
from dualpath.cli.score import Style
from dualpath.errors import UserError

BATCH = "1,2,4,8,16,32,64,128,256,512"
PRECISIONS = ("float32", "bfloat16")
"""What every set-up can compute in, those on the CPU too."""


class EncoderShape(StrEnum):
    """Sizes of BERT: 22 and 340 million parameters."""

    minilm = "minilm"
    bert_large = "bert-large"


def bench(
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="F.csv|F.json", help="Excerpts to score, as for `compare`; else built-in ones."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Rows per request.")] = BATCH,
    duration: Annotated[float, typer.Option(help="Seconds for each set-up at each batch size.")] = 10.0,
    concurrency: Annotated[str, typer.Option(help="Numbers of clients that wait for their answers.")] = "1",
    model: Annotated[
        Style, typer.Option(help="The model that is asked where everything is in Triton.")
    ] = Style.orchestrator,
    encoder_shape: Annotated[
        EncoderShape, typer.Option(help="bert-large: BERT's 340 M-parameter architecture, its weights random.")
    ] = EncoderShape.minilm,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What BERT computes in: float32, bfloat16 or both.  "
            "[default: minilm as it is served, bert-large in both]"
        ),
    ] = None,
    json: Json = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an HTML report and its figures into this folder.")
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Where encoders are built and kept, gigabytes of them.  [default: ~/.cache/dualpath]"),
    ] = None,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
) -> None:
    """Measure the pipeline's set-ups: throughput by batch size, and the latency of one excerpt.

    Three set-ups take turns: everything in Triton on the CPU; pre- and postprocessing in the client's process, with the
    models in Triton; everything in Triton on the GPU, where there is one. Requests that would take over 30 s are not
    sent. Ctrl-C ends with what was measured until then. Exit code 1: the set-ups' scores differ, or a server went away.
    """
    from rich.console import Console

    from dualpath.cli.bench_models import default_work_dir
    from dualpath.cli.bench_run import Asked, Bench
    from dualpath.cli.bench_servers import served
    from dualpath.cli.bench_view import show
    from dualpath.cli.ending import run_to_end
    from dualpath.compare import inputs
    from dualpath.compare import report as reports
    from dualpath.compare.result import Load
    from dualpath.compare.run import Plan
    from dualpath.compare.setups import SLOW_S
    from dualpath.readability.contract import ENSEMBLE, MAX_BATCH_SIZE

    if not 0 < duration < float("inf"):
        raise UserError(f"--duration: expected a number of seconds above 0, got {duration:g}.")
    batches = numbers("--batch", batch, int)
    if max(batches) > MAX_BATCH_SIZE:
        raise UserError(f"--batch: expected at most {MAX_BATCH_SIZE} rows a request, got {max(batches)}.")
    loads = {Load(rows, clients) for rows in batches for clients in numbers("--concurrency", concurrency, int, MOST)}
    loads.add(Load(1, 1))  # the latency of one
    source = inputs.read(input_)
    asked = Asked(
        source.rows(ENSEMBLE.inputs),
        source.name,
        sorted(loads, key=lambda load: (load.concurrency, load.batch)),
        Plan(duration, timeout_s=4 * SLOW_S),
        model.value,
    )
    encoders = encoder_shape.value, _precisions(precision, encoder_shape)
    if report:
        reports.check(report)

    console = Console(stderr=True, highlight=False)
    with served(model_repository, model.value, *encoders, work_dir or default_work_dir(), console) as places:
        exit_code = run_to_end(Bench(asked, places), console, show, json, report)
    raise typer.Exit(exit_code)


def _precisions(text: str | None, shape: EncoderShape) -> list[str]:
    """Read "float32,bfloat16"; without it, none for minilm, which is then served as it is."""
    if text is None:
        return [] if shape is EncoderShape.minilm else list(PRECISIONS)
    chosen = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in chosen:
        if part not in PRECISIONS:
            raise UserError(f"--precision: expected {' or '.join(PRECISIONS)}, or both after a comma, got {part!r}.")
    return chosen
