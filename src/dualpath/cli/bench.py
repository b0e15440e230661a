"""`dualpath bench`: how fast is the pipeline on this machine, by where its steps run and by batch size?"""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from dualpath.cli.compare import MOST, numbers
from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository
from dualpath.cli.score import Style
from dualpath.errors import UserError

BATCH = "1,2,4,8,16,32,64,128,256,512"


def bench(
    input_file: Annotated[
        Path | None,
        Option("--input", metavar="F.csv|F.json", help="Excerpts to score, as for `compare`; else built-in ones."),
    ] = None,
    batch: Annotated[str, Option(help="Rows per request.")] = BATCH,
    duration: Annotated[float, Option(help="Seconds for each set-up at each batch size.")] = 10.0,
    concurrency: Annotated[str, Option(help="Numbers of clients that wait for their answers.")] = "1",
    model: Annotated[Style, Option(help="The model that is asked if everything is in Triton.")] = "orchestrator",
    encoder_shape: Annotated[
        Literal["minilm", "bert-large"],
        Option(help="bert-large: BERT's 340 M-parameter architecture, its weights random."),
    ] = "minilm",
    precision: Annotated[
        str | None,
        Option(
            help="What BERT computes in: float32, bfloat16, float16 or several.  "
            "[default: minilm as it is served, bert-large in float32,bfloat16]"
        ),
    ] = None,
    as_json: Json = False,
    report: Annotated[
        Path | None, Option(metavar="DIR", help="Write an HTML report and its figures into this folder.")
    ] = None,
    work_dir: Annotated[
        Path | None, Option(help="Where encoders are built and kept, gigabytes of them.  [default: ~/.cache/dualpath]")
    ] = None,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
) -> None:
    """Measure the pipeline's set-ups: throughput by batch size, and the latency of one excerpt.

    The set-ups take turns: everything in Triton on the CPU; pre- and postprocessing in the client's process, with the
    models in Triton; and if there is a GPU everything in Triton with the models on the GPU, and all on the GPU.
    Requests that would take over 30 s are not sent. Ctrl-C ends with what was measured until then. Exit code 1: the
    set-ups' scores differ, or a server went away.
    """
    from dualpath.cli.compare_view import Ending, show_bench
    from dualpath.compare import bench as bench_set_ups

    Ending(show_bench, as_json, report).after(
        bench_set_ups,
        input_file=input_file,
        batch=numbers("--batch", batch, int),
        concurrency=numbers("--concurrency", concurrency, int, MOST),
        duration_s=duration,
        model=model,
        encoder_shape=encoder_shape,
        precisions=_precisions(precision, encoder_shape),
        work_dir=work_dir,
        model_repository=model_repository,
    )


def _precisions(text: str | None, shape: str) -> list[str]:
    """Read "float32,bfloat16"; without it, none for minilm, which is then served as it is."""
    from dualpath.training.build import PRECISIONS

    if text is None:
        return [] if shape == "minilm" else ["float32", "bfloat16"]  # what every set-up can compute in
    chosen = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in chosen:
        if part not in PRECISIONS:
            known = f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
            raise UserError(f"--precision: expected {known}, got {part!r}. Name one or more.")
    return chosen
