"""`dualpath score`: score excerpts from the command line or from a file."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, ModelRepository
from dualpath.cli.score_files import header, open_excerpts, write_csv, written_to
from dualpath.errors import UserError
from dualpath.readability.excerpt_tables import Excerpts, printable
from dualpath.tables import Format, TableRow

if TYPE_CHECKING:
    from dualpath.readability.combine import Scores
    from dualpath.scale.job import JobProgress

ROWS_PER_REQUEST = 32
"""Enough to fill BERT's chunks, few enough that the progress bar moves."""

ScoreRows = Callable[[list[bytes], "Scores"], "Scores"]
Show = Callable[[TableRow, float | None], None]
Style = Literal["orchestrator", "ensemble_all"]
Runner = Literal["here", "ray"]


def score(
    texts: Annotated[list[str] | None, Argument(metavar="TEXT", help="Excerpts to score.")] = None,
    file: Annotated[
        str | None,
        Option(
            metavar="FILE|-",
            help="CSV, JSON lines, Parquet or .xlsx with a column `excerpt`, or text, one per line; -: standard input. "
            "With --runner ray: Parquet, CSV or JSON lines, or a folder of them, also by an address such as s3://...",
        ),
    ] = None,
    file_format: Annotated[
        Format | None,
        Option("--format", help="Format of the file.  [default: by its ending; of standard input by its first line]"),
    ] = None,
    bert_weight: Annotated[
        float, Option(help="Share of BERT in the score, 0 to 1; a CSV's column `bert_weight` comes first.")
    ] = 0.7,
    model: Annotated[Style, Option(help="The model that scores.")] = "orchestrator",
    local: Annotated[bool, Option("--local", help="Score in this process, without a server.")] = False,
    output: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="Write here, not to standard output. With --runner ray: a folder, or an address such as s3://...",
        ),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on where --output ends; its rows are not scored again.")
    ] = False,
    runner: Annotated[Runner, Option(help="Score here, or on the nodes of a Ray cluster: see docs/scale.md.")] = "here",
    address: Annotated[
        str | None,
        Option(
            help="The Ray cluster: `auto`, HOST:PORT or ray://HOST:PORT.  [default: the cluster of RAY_ADDRESS or of "
            "`ray start` here, else this machine alone]"
        ),
    ] = None,
    partition_rows: Annotated[
        int, Option(min=1, help="With --runner ray: rows that are written together, and lost by a stop.")
    ] = 1024,
    retry_for: Annotated[
        float, Option(min=0, metavar="SECONDS", help="How long to try again while the server is unavailable.")
    ] = 60,
    as_json: Annotated[bool, Option("--json", help="Print a JSON object a line.")] = False,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    url: Annotated[
        list[str] | None,
        Option(
            help="Triton's gRPC address; with --runner ray it may be given several times, and without it each node "
            f"starts a server.  [default: {DEFAULT_URL}]"
        ),
    ] = None,
) -> None:
    """Score excerpts: one line each, higher is easier to read.

    Without TEXT and --file, standard input is read. Texts and text files give `score<TAB>excerpt`; a table comes back
    as CSV, JSON lines as JSON lines, with its columns and one more, `score`. A row that
    cannot be scored is named on stderr and has no score; the others are scored all the same, and the exit code is 1.
    """
    from dualpath.readability.excerpts import InvalidInput, check_weight

    if texts and file is not None:
        raise UserError("TEXT: expected either arguments or --file, got both. Leave one out.")
    if not texts and file is None and sys.stdin.isatty():
        raise UserError("TEXT: expected arguments, --file or texts on standard input, got none. Give one.")
    try:
        check_weight(bert_weight, "--bert-weight")
    except InvalidInput as error:
        raise UserError(str(error)) from None
    if runner == "ray":
        if texts or file in (None, "-") or local or file_format:
            raise UserError(
                "--runner ray: expected --file, got TEXT, standard input, --local or --format. Name a file or a folder."
            )
        _on_ray(
            str(file),
            output,
            as_json=as_json,
            address=address,
            urls=url or (),
            model_repository=model_repository,
            model=model,
            weight=bert_weight,
            partition_rows=partition_rows,
            retry_for_s=retry_for,
            resume=resume,
        )
        return
    if address is not None or len(url or ()) > 1:
        raise UserError("--address, several --url: expected --runner ray beside them, got no --runner. Add it.")
    with open_excerpts(texts, file, file_format) as excerpts:
        score_rows = _local(model_repository) if local else _served((url or [DEFAULT_URL])[0], model, retry_for)
        json_lines = as_json or excerpts.format is Format.jsonl
        as_csv = bool(excerpts.columns) and not json_lines
        path = Path(output) if output else None
        with written_to(path, resume, quoted=as_csv) as n_lines:
            show: Show = partial(_show_line, excerpts)
            if json_lines:
                show = _show_json
            elif as_csv:
                if path and n_lines:
                    _check_header(path, excerpts.columns)
                show = write_csv(excerpts.columns, with_header=not n_lines)
            left = islice(excerpts.records, max(0, n_lines - as_csv), None)
            n_bad = sum(_score_batch(it, excerpts, bert_weight, score_rows, show) for it in _batches(left))
    if n_bad:
        raise Exit(1)


def _on_ray(file: str, output: str | None, *, as_json: bool, **options: Any) -> None:
    """Score a data set by `dualpath.scale.job.run_job`; exit with 1 if some rows have no score."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from dualpath.scale.job import JobFailed, run_job

    if output is None:
        raise UserError("--runner ray: expected --output with a folder for the scores, got none. Name one.")
    console = Console(stderr=True)
    columns = (TextColumn("partitions"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: JobProgress) -> None:
            n_rows = progress.n_scored + progress.n_rejected
            rows = f"{n_rows} rows" if n_rows else "starting"
            bar.update(task, total=progress.n_partitions, completed=progress.n_done, description=rows)

        try:
            done = run_job(file, output, on_progress=show, **options)
        except JobFailed as error:
            _complain(f"{str(error).rstrip('.')}. The partitions in {output} are complete; go on with --resume.")
            raise Exit(1) from None
    if as_json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(f"{done.n_scored} rows scored, in {output}/scores; {done.n_partitions} partitions are done.")
    if done.n_rejected:
        _complain(f"{output}: expected scores, got none for {done.n_rejected} rows. See rejected/.")
        raise Exit(1)


def _check_header(output: Path, columns: tuple[str, ...]) -> None:
    """Refuse to go on with a file that was written for other columns."""
    wanted = header(columns)
    with output.open(encoding="utf-8", newline="") as file:
        found = next(csv.reader(file))
    if found != wanted:
        raise UserError(
            f"--resume {output}: expected the columns {', '.join(wanted)}, got {', '.join(found)}. "
            "Name the output of the same file."
        )


def _score_batch(
    batch: list[TableRow], excerpts: Excerpts, bert_weight: float, score_rows: ScoreRows, show: Show
) -> int:
    """Score and show a batch; return how many of its rows could not be scored."""
    import numpy as np

    from dualpath.readability.excerpts import InvalidInput

    good: dict[TableRow, tuple[bytes, float]] = {}
    for row in batch:
        try:
            good[row] = excerpts.check(row, bert_weight)
        except InvalidInput as error:
            _complain(str(error))
    scores: dict[TableRow, float] = {}
    if good:
        texts, weights = zip(*good.values(), strict=True)
        scores = dict(zip(good, score_rows(list(texts), np.array(weights, np.float32)).tolist(), strict=True))
    for row, value in list(scores.items()):
        if not math.isfinite(value):
            _complain(f"{row.where}: expected a finite score, got {value} from the model. Train it again.")
            del scores[row]
    for row in batch:
        show(row, scores.get(row))
    return len(batch) - len(scores)


def _batches(records: Iterable[TableRow]) -> Iterator[list[TableRow]]:
    rows = iter(records)
    while batch := list(islice(rows, ROWS_PER_REQUEST)):
        yield batch


def _local(model_repository: Path) -> ScoreRows:
    from dualpath.repository import folders
    from dualpath.serving import preflight

    preflight.check_artifacts(folders.models(model_repository))
    from dualpath.readability.reference import Reference

    try:
        return Reference(model_repository, threads=len(os.sched_getaffinity(0))).score
    except Exception as error:  # torch, treelite and tokenizers each have their own for a file they cannot read
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--local: expected artifacts that can be loaded, got: {reason}. Run `dualpath build --force`."
        ) from None


def _served(url: str, model: str, retry_for_s: float) -> ScoreRows:
    from tritonclient.utils import InferenceServerException

    from dualpath.serving.client import Scorer, connect, retrying

    client = connect(url)
    scorer = Scorer(client, model)
    if not client.is_model_ready(model):
        raise UserError(f"{model}: expected it to be ready at {url}, got another state. See `dualpath models`.")

    def report(line: str) -> None:
        _complain(f"{model}: {line}")

    def score_rows(excerpts: list[bytes], weights: Scores) -> Scores:
        try:
            return retrying(lambda: scorer.score(excerpts, weights), retry_for_s, report)
        except InferenceServerException as error:
            reason = " ".join(str(error.message()).split()).rstrip(".")
            _complain(f"{model}: expected scores, got: {reason}. The rows above are complete.")
            raise Exit(1) from None

    return score_rows


def _complain(sentence: str) -> None:
    print(f"dualpath: {sentence}", file=sys.stderr)


def _show_line(excerpts: Excerpts, row: TableRow, value: float | None) -> None:
    text = printable(row.cells)[excerpts.excerpt]
    shown = " ".join(text[:100].split())
    print(f"{'' if value is None else format(value, '.4f')}\t{shown}{'…' if len(text) > 100 else ''}", flush=True)


def _show_json(row: TableRow, value: float | None) -> None:
    print(json.dumps({**printable(row.cells), "score": value}, ensure_ascii=False), flush=True)
