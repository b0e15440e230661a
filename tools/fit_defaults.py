"""Compute the small committed files of the default models from a file of rated excerpts.

    python tools/fit_defaults.py FILE

`dualpath.training.corpus` says what the file holds.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dualpath.errors import UserError
from dualpath.readability.tokens import TokenEncoder
from dualpath.training.bert import batches, encoders
from dualpath.training.bert.regressor import Pooled, fit_head, load_encoder
from dualpath.training.blend import Blend, blend
from dualpath.training.build import HEAD, TABLE
from dualpath.training.corpus import N_FOLDS, Corpus, Fold, read_corpus, split
from dualpath.training.forest import ForestTable, cross_validate_forest

Floats = npt.NDArray[np.float32]


def embed(excerpts: list[bytes], report: Callable[[int], object]) -> Floats:
    """Pool the default encoder's hidden states, float32 [excerpts, columns]; `report` gets each batch's size."""
    folder = encoders.minilm_folder()
    encoder = load_encoder(folder)
    rows = TokenEncoder(folder / "tokenizer.json").encode(excerpts)
    return batches.apply(Pooled(encoder), rows, report=report)


def cross_validate_head(corpus: Corpus, pooled: Floats, folds: list[Fold]) -> Floats:
    """Score every excerpt by a head fitted on the other folds: float32 [excerpts]."""
    scores = np.empty_like(corpus.targets)
    for fold in folds:
        head, _ = fit_head(pooled[fold.train], corpus.targets[fold.train])
        scores[fold.test] = head.predict(pooled[fold.test])
    return scores


def _report(console: Console, corpus: Corpus, blended: Blend) -> None:
    table = Table("model", "RMSE", title=f"{N_FOLDS}-fold cross-validation, {len(corpus.targets):,} excerpts")
    table.add_row("target's standard deviation (no model)", f"{corpus.targets.std():.3f}")
    table.add_row("forest", f"{blended.forest_rmse:.3f}")
    table.add_row("BERT head", f"{blended.bert_rmse:.3f}")
    table.add_row("blend, weight 0.5", f"{blended.rmse[len(blended.rmse) // 2]:.3f}")
    table.add_row(f"blend, best weight {blended.best_weight:.2f}", f"{blended.best_rmse:.3f}")
    table.add_row("blend, weight chosen on other folds", f"{blended.nested_rmse:.3f}")
    console.print(table)
    console.print(
        f"Folds: {corpus.n_groups:,} groups of excerpts with a common author or URL (fragment aside; a row with "
        "neither is its own group), no group in two folds. Word lists and ridge penalty come from the training "
        "folds alone."
    )


def fit(path: Path, folder: Path, console: Console) -> None:
    """Cross-validate on the file, fit on all of it, and write both files into `folder`."""
    corpus = read_corpus(path)
    folds = split(corpus)
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(corpus.excerpts))
        pooled = embed(corpus.excerpts, lambda n_rows: progress.advance(task, n_rows))
    with console.status(f"fitting {N_FOLDS} folds"):
        bert = cross_validate_head(corpus, pooled, folds)
        forest = cross_validate_forest(corpus, folds, "sklearn")
    _report(console, corpus, blend(bert, forest, corpus.targets, folds))
    with console.status("fitting on all excerpts"):
        head, penalty = fit_head(pooled, corpus.targets)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fitting-") as name:  # both files are whole, or none is there
        new = Path(name)
        head.save(new / HEAD.name)
        ForestTable.from_excerpts(corpus.excerpts, corpus.targets).save(new / TABLE.name)
        for file in (HEAD.name, TABLE.name):
            (new / file).replace(folder / file)
    sizes = ", ".join(f"{name} ({(folder / name).stat().st_size / 1e3:.0f} kB)" for name in (HEAD.name, TABLE.name))
    console.print(f"Ridge penalty on all excerpts: {penalty:g}. Wrote {sizes} into {folder}.", soft_wrap=True)


def main() -> None:
    """Read the command line and fit; exit code 2 on wrong input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="rated excerpts, CSV or .xlsx")
    parser.add_argument("--output", type=Path, default=HEAD.parent, help="folder to write into (default: the package)")
    arguments = parser.parse_args()
    try:
        fit(arguments.file, arguments.output, Console())
    except UserError as error:
        print(f"fit_defaults: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
