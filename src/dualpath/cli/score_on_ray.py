"""`dualpath score --runner ray`: a data set, scored on the nodes of a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from typer import Exit

from dualpath.errors import UserError

if TYPE_CHECKING:
    from dualpath.scale.job import JobProgress


def score_on_ray(file: str, output: str | None, *, as_json: bool, **options: Any) -> None:
    """Score a data set under a progress bar, and say what was done; exit with 1 if some rows have no score.

    Args:
        options: arguments of `dualpath.scale.job.run`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from dualpath.scale.job import JobFailed, run

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
            done = run(file, output, on_progress=show, **options)
        except JobFailed as error:
            print(
                f"dualpath: {str(error).rstrip('.')}. The partitions in {output} are complete; go on with --resume.",
                file=sys.stderr,
            )
            raise Exit(1) from None
    if as_json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(f"{done.n_scored} rows scored, in {output}/scores; {done.n_partitions} partitions are done.")
    if done.n_rejected:
        print(
            f"dualpath: {output}: expected scores, got none for {done.n_rejected} rows. See rejected/.", file=sys.stderr
        )
        raise Exit(1)
