"""`dualpath score`: score excerpts from the command line or from a file."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualpath.cli.excerpt_files import Excerpt, Format, open_excerpts, write_csv
from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, ModelRepository, Url
from dualpath.errors import UserError

if TYPE_CHECKING:
    from dualpath.readability.combine import Scores

ROWS_PER_REQUEST = 32
"""Enough to fill BERT's chunks, few enough that the progress bar moves."""

ScoreRows = Callable[[list[bytes], "Scores"], "Scores"]


class Style(StrEnum):
    """The two models of the server that score."""

    orchestrator = "orchestrator"
    ensemble_all = "ensemble_all"


def score(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Excerpts to score.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="F.csv|F.txt|-", help="CSV with a column `excerpt`, or text, one per line."),
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Format of the file.  [default: by its ending; - is txt]")
    ] = None,
    bert_weight: Annotated[
        float, typer.Option(help="Share of BERT in the score, 0 to 1; a CSV's column `bert_weight` comes first.")
    ] = 0.7,
    model: Annotated[Style, typer.Option(help="The model that scores.")] = Style.orchestrator,
    local: Annotated[bool, typer.Option("--local", help="Score in this process, without a server.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    url: Url = DEFAULT_URL,
) -> None:
    """Score excerpts: one line each, higher is easier to read.

    Texts and text files give `score<TAB>excerpt`; a CSV comes back with its columns and one more, `score`. A row that
    cannot be scored is named on stderr and has no score; the others are scored all the same, and the exit code is 1.
    """
    from dualpath.readability.excerpts import InvalidInput, check_weight

    if (not texts) == (file is None):
        raise UserError("expected either TEXT arguments or --file, got " + ("both." if texts else "neither."))
    try:
        check_weight(bert_weight, "--bert-weight")
    except InvalidInput as error:
        raise UserError(str(error)) from None
    with open_excerpts(texts, file, file_format) as source:
        score_rows = _local(model_repository) if local else _served(url, model.value)
        show = _show_json if json_lines else write_csv(source.columns) if source.columns else _show_line
        n_bad = sum(_score_batch(batch, bert_weight, score_rows, show) for batch in _batches(source.excerpts))
    if n_bad:
        raise typer.Exit(1)


def _score_batch(batch: list[Excerpt], bert_weight: float, score_rows: ScoreRows, show: Callable[..., None]) -> int:
    """Score and show a batch; return how many of its rows could not be scored."""
    import numpy as np

    from dualpath.readability.excerpts import InvalidInput

    weights: dict[Excerpt, float] = {}
    for row in batch:
        try:
            weights[row] = row.weight(bert_weight)
        except InvalidInput as error:
            _complain(str(error))
    scores: dict[Excerpt, float] = {}
    if weights:
        answer = score_rows([row.excerpt for row in weights], np.array(list(weights.values()), np.float32))
        scores = dict(zip(weights, answer.tolist(), strict=True))
    for row, value in list(scores.items()):
        if not math.isfinite(value):
            _complain(f"{row.where}: expected a finite score, got {value} from the model.")
            del scores[row]
    for row in batch:
        show(row, scores.get(row))
    return len(batch) - len(scores)


def _batches(excerpts: Iterable[Excerpt]) -> Iterator[list[Excerpt]]:
    rows = iter(excerpts)
    while batch := list(islice(rows, ROWS_PER_REQUEST)):
        yield batch


def _local(model_repository: Path) -> ScoreRows:
    from dualpath.repository import folders
    from dualpath.serving import preflight

    preflight.check_artifacts(folders.models(model_repository))
    try:
        from dualpath.readability.reference import Reference
    except ImportError as error:
        raise UserError(f"--local needs {error.name}. Install it with `pip install 'dualpath[models]'`.") from None
    try:
        return Reference(model_repository, threads=len(os.sched_getaffinity(0))).score
    except Exception as error:  # torch, treelite and tokenizers each have their own for a file they cannot read
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--local: an artifact cannot be loaded: {reason}. Run `dualpath build --force`.") from None


def _served(url: str, model: str) -> ScoreRows:
    from tritonclient.utils import InferenceServerException

    from dualpath.serving.client import Scorer, connect

    client = connect(url)
    scorer = Scorer(client, model)
    if not client.is_model_ready(model):
        raise UserError(f"{model} is not ready on the server at {url}. See `dualpath models`.")

    def score_rows(excerpts: list[bytes], weights: Scores) -> Scores:
        try:
            return scorer.score(excerpts, weights)
        except InferenceServerException as error:
            reason = " ".join(str(error.message()).split()).rstrip(".")
            _complain(f"{model} failed: {reason}. The rows above are complete.")
            raise typer.Exit(1) from None

    return score_rows


def _complain(sentence: str) -> None:
    print(f"dualpath: {sentence}", file=sys.stderr)


def _show_line(row: Excerpt, value: float | None) -> None:
    text = row.excerpt.decode(errors="replace")
    shown = " ".join(text[:100].split())
    print(f"{'' if value is None else format(value, '.4f')}\t{shown}{'…' if len(text) > 100 else ''}", flush=True)


def _show_json(row: Excerpt, value: float | None) -> None:
    record: dict[str, Any] = {**row.record(), "score": value}
    print(json.dumps(record, ensure_ascii=False), flush=True)
