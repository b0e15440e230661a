"""What `dualpath train` shows: a bar for each part, a line for what each found, a table in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from dualpath.training.card import Card
from dualpath.training.runs import Report


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """Show bars while the block runs; if nobody watches, a line whenever a part has something new to say."""
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


def table(card: Card) -> Table:
    """Return the errors as a table."""
    table = Table("model", "RMSE", title=f"{card.n_folds}-fold cross-validation, {card.n_rows:,} excerpts")
    for name, error in card.errors():
        if error is not None:
            table.add_row(name.replace("`", ""), f"{error:.3f}")
    return table
