"""Compute the small committed files of the default models from a CSV file of rated excerpts.

    python -m dualpath.training.fit_defaults FILE.csv

The file has the columns `excerpt`, `target` and, for honest folds, `url_legal` (CLEAR's layout).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.model_selection import GroupKFold

from dualpath.errors import UserError
from dualpath.readability.features import FeatureCounter, features
from dualpath.readability.tokens import TokenEncoder, pad
from dualpath.training import minilm
from dualpath.training.artifacts import replacing
from dualpath.training.corpus import Corpus, read_corpus
from dualpath.training.encoder import load_encoder, pool
from dualpath.training.forest import TABLE_FILE, ForestTable, fit_forest
from dualpath.training.head import HEAD_FILE, fit_head

DATA_FOLDER = Path(__file__).parent / "data"
N_FOLDS = 5
BATCH = 16
WEIGHTS = np.linspace(0, 1, 101, dtype=np.float32)

Floats = npt.NDArray[np.float32]


def embed(excerpts: list[bytes], report: Callable[[int], object]) -> Floats:
    """Pool the default encoder's hidden states, float32 [excerpts, columns]; `report` gets each batch's size."""
    folder = minilm.minilm_folder()
    encoder = load_encoder(folder)
    rows = TokenEncoder(folder / "tokenizer.json").encode(excerpts)
    order = np.argsort([len(row) for row in rows], kind="stable")
    batches: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            input_ids, attention_mask = (torch.from_numpy(array) for array in pad([rows[row] for row in batch]))
            batches.append(pool(encoder, input_ids, attention_mask).numpy())
            report(len(batch))
    pooled: Floats = np.concatenate(batches)[np.argsort(order)]
    return pooled


def cross_validate(corpus: Corpus, pooled: Floats) -> tuple[Floats, Floats]:
    """Score every excerpt by a head and a forest fitted on the other folds: float32 [excerpts] each."""
    bert, forest = np.empty_like(corpus.targets), np.empty_like(corpus.targets)
    for train, test in GroupKFold(N_FOLDS).split(pooled, groups=corpus.groups):
        head, _ = fit_head(pooled[train], corpus.targets[train])
        bert[test] = head.predict(pooled[test])
        table = ForestTable.from_excerpts([corpus.excerpts[row] for row in train], corpus.targets[train])
        counts = FeatureCounter(table.word_lists).count([corpus.excerpts[row] for row in test])
        forest[test] = fit_forest(table).predict(features(counts))
    return bert, forest


def rmse(scores: Floats, targets: Floats) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((scores - targets) ** 2)))


def _report(console: Console, corpus: Corpus, bert: Floats, forest: Floats) -> None:
    targets = corpus.targets
    blends = [rmse(weight * bert + (1 - weight) * forest, targets) for weight in WEIGHTS]
    best = int(np.argmin(blends))
    table = Table("model", "RMSE", title=f"{N_FOLDS}-fold cross-validation, {len(targets):,} excerpts")
    table.add_row("target's standard deviation (no model)", f"{targets.std():.3f}")
    table.add_row("forest", f"{rmse(forest, targets):.3f}")
    table.add_row("BERT head", f"{rmse(bert, targets):.3f}")
    table.add_row("blend, weight 0.5", f"{blends[len(WEIGHTS) // 2]:.3f}")
    table.add_row(f"blend, best weight {WEIGHTS[best]:.2f}", f"{blends[best]:.3f}")
    console.print(table)
    console.print(
        f"Folds: {corpus.n_groups:,} groups of excerpts with the same url_legal (fragment aside; a row without one is "
        "its own group), no group in two folds. Word lists and ridge penalty come from the training folds alone; "
        "the best weight is chosen on the scores it is measured on."
    )


def fit(path: Path, folder: Path, console: Console) -> None:
    """Cross-validate on the CSV file, fit on all of it, and write both files into `folder`."""
    corpus = read_corpus(path)
    if corpus.n_groups < N_FOLDS:
        raise UserError(f"{path}: expected at least {N_FOLDS} sources of excerpts, found {corpus.n_groups}.")
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(corpus.excerpts))
        pooled = embed(corpus.excerpts, lambda n_rows: progress.advance(task, n_rows))
    with console.status(f"fitting {N_FOLDS} folds"):
        bert, forest = cross_validate(corpus, pooled)
    _report(console, corpus, bert, forest)
    with console.status("fitting on all excerpts"):
        head, penalty = fit_head(pooled, corpus.targets)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as new:
        head.save(new / HEAD_FILE)
        ForestTable.from_excerpts(corpus.excerpts, corpus.targets).save(new / TABLE_FILE)
    sizes = ", ".join(f"{name} ({(folder / name).stat().st_size / 1e3:.0f} kB)" for name in (HEAD_FILE, TABLE_FILE))
    console.print(f"Ridge penalty on all excerpts: {penalty:g}. Wrote {sizes} into {folder}.", soft_wrap=True)


def main() -> None:
    """Read the command line and fit; exit code 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="python -m dualpath.training.fit_defaults", description=__doc__)
    parser.add_argument("csv", type=Path, help="columns excerpt, target and, where known, url_legal")
    parser.add_argument("--output", type=Path, default=DATA_FOLDER, help="folder to write into (default: the package)")
    arguments = parser.parse_args()
    try:
        fit(arguments.csv, arguments.output, Console())
    except UserError as error:
        print(f"fit_defaults: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
