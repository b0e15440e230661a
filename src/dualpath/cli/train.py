"""`dualpath train`: fit the models on rated excerpts and publish them as a version."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Exit, Option, Typer

from dualpath.cli.build import Precision
from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository

if TYPE_CHECKING:
    from rich.console import Console

    from dualpath.training.runs import PartReport

app = Typer(
    name="train",
    help="Fit the models on excerpts with ratings, and publish them as a version of the model repository.",
    no_args_is_help=True,
)


Data = Annotated[
    Path,
    Option(
        metavar="FILE",
        help="Rated excerpts, .csv or .xlsx: the layout of the CommonLit Readability Prize's train.csv, or the CLEAR "
        "corpus.",
    ),
]
Folds = Annotated[int, Option(metavar="N", help="Of the cross-validation; excerpts of one source stay together.")]
Seed = Annotated[int, Option(metavar="N", help="Of the folds and of all that is random.")]
Count = partial(Option, metavar="N", min=1)
Rate = partial(Option, metavar="RATE", min=0)


@app.command()
def bert(
    data: Data,
    encoder: Annotated[
        str, Option(metavar="NAME|PATH", help="minilm, a folder, or a model of the Hugging Face hub.")
    ] = "minilm",
    folds: Folds = 5,
    hidden_states: Annotated[
        Literal["last", "all"], Option(help="What the linear layer reads: the last hidden layer, or all.")
    ] = "all",
    soup: Annotated[int, Count(help="Fits in different orders, whose weights are averaged.")] = 3,
    epochs: Annotated[int, Count(help="Of each fit, at most; early stopping may end before.")] = 1,
    batch_rows: Annotated[int, Count(help="Excerpts of a step.")] = 16,
    accumulate: Annotated[int, Count(help="Parts that a step is computed in, to save memory.")] = 1,
    learning_rate: Annotated[float, Rate(help="Of the encoder, at its highest.")] = 1e-4,
    head_learning_rate: Annotated[float, Rate(help="Of the linear layer on top.")] = 1e-4,
    weight_decay: Annotated[float, Rate(help="Of weights; biases and norms have none.")] = 0.01,
    warm_up: Annotated[float, Rate(metavar="SHARE", max=1, help="Of the steps, in which the rates rise.")] = 0.1,
    patience: Annotated[int, Count(help="Evaluations without a lower RMSE until it stops.")] = 3,
    evaluations: Annotated[int, Count(help="Per epoch.")] = 2,
    freeze_layers: Annotated[int, Count(min=0, help="Lowest layers that stay as they are, as embeddings do.")] = 0,
    no_mixed_precision: Annotated[
        bool, Option("--no-mixed-precision", help="Fit in float32 even if half precision is faster.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, Option("--gradient-checkpointing", help="Compute activations twice: slower, much less memory.")
    ] = False,
    keep: Annotated[
        Literal["better", "fine-tuned", "frozen"],
        Option(metavar="NAME", help="BERT to publish: fine-tuned, frozen, or of these the better out of fold."),
    ] = "better",
    precision: Annotated[
        Precision,
        Option(metavar="TYPE", help="What BERT will compute in when it is served: float32, bfloat16, float16 or int8."),
    ] = "float32",
    seed: Seed = 0,
    run_dir: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="Where unfinished work is kept, so that the same command goes on; by default a folder in runs.",
        ),
    ] = None,
    fresh: Annotated[bool, Option("--fresh", help="Forget unfinished work and start again.")] = False,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    as_json: Json = False,
) -> None:
    """Fine-tune an encoder with one linear layer on its hidden states.

    Interrupted, the same command goes on where it was. Nothing that is served changes before all is whole and checked.
    """
    _train(["bert-large"], **locals())


@app.command()
def forest(
    data: Data,
    engine: Annotated[
        Literal["auto", "cuml", "sklearn"],
        Option(metavar="NAME", help="auto, cuml or sklearn; auto is cuML on a GPU, scikit-learn elsewhere."),
    ] = "auto",
    folds: Folds = 5,
    seed: Seed = 0,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    as_json: Json = False,
) -> None:
    """Fit the random forest on 207 counted features; word lists come from the excerpts."""
    _train(["cuml"], **locals())


def both(**options: Any) -> None:
    """Train both models on the same folds, and find the weight at which their blend is best."""
    _train(["cuml", "bert-large"], **options)


# Its options are those of both commands: typer reads them here.
_parameters = {**signature(bert, eval_str=True).parameters, **signature(forest, eval_str=True).parameters}
both.__signature__ = Signature([*_parameters.values()])  # type: ignore[attr-defined]
both.__annotations__ = {name: each.annotation for name, each in _parameters.items()}
app.command("all")(both)


def _train(models: list[str], data: Path, folds: int, model_repository: Path, as_json: bool, **options: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from dualpath.extras import installed

    installed("scikit-learn", "torch", "transformers", "treelite", extra="train")
    if len(models) == 2:
        installed("matplotlib", extra="train")  # before hours of training, not after
    from dualpath.training.bert.settings import Settings
    from dualpath.training.train import TrainingJob, train

    fields = {field.name for field in dataclasses.fields(Settings)}
    options["mixed_precision"] = not options.pop("no_mixed_precision", False)
    settings = Settings(**{name: value for name, value in options.items() if name in fields})
    others = {name: value for name, value in options.items() if name not in fields - {"seed"}}
    job = TrainingJob(data, models, model_repository, n_folds=folds, settings=settings, **others)
    console = Console(stderr=True, highlight=False)
    try:
        with _progress(console) as report:
            trained = train(job, report)
    except KeyboardInterrupt:
        print(
            "dualpath: interrupted; nothing served has changed, and the same command goes on from here.",
            file=sys.stderr,
        )
        raise
    except RuntimeError as error:
        print(f"dualpath: {error}", file=sys.stderr)
        raise Exit(1) from None
    if as_json:
        said = {"version": trained.version, "files": trained.files, "run_dir": trained.run_dir, "notes": trained.notes}
        print(json.dumps(said | {"card": trained.card.as_json()}, indent=2, default=str))
        return
    table = Table("model", "RMSE", title=f"{folds}-fold cross-validation, {trained.card.n_rows:,} excerpts")
    for name, rmse in trained.card.errors():
        if rmse is not None:
            table.add_row(name.replace("`", ""), f"{rmse:.3f}")
    Console().print(table)
    for note in trained.notes:
        print(note)
    folders = [str(model_repository / model / str(trained.version)) for model in trained.files]
    print(f"Version {trained.version}: {' and '.join(folders)}. A running server takes it by `dualpath reload`.")


@contextmanager
def _progress(console: Console) -> Iterator[PartReport]:
    """Show bars while the block runs; if nobody watches, a line whenever a part has something new to say."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Remaining(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, tuple[TaskID, str]] = {}

        def report(part: str, n_done: int, n_all: int, note: str) -> None:
            task, said = tasks.get(part) or (bars.add_task(part, total=n_all, note=""), "")
            tasks[part] = task, note
            bars.update(task, completed=n_done, total=n_all, note=note)
            if not console.is_terminal and (note != said or (n_done == n_all and not note)):
                console.print(f"{part}: {n_done} of {n_all}{note and '; '}{note}", soft_wrap=True)

        yield report
