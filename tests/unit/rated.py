"""Made-up rated excerpts, easy if their words are short."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dualpath.training.corpus import Corpus

SHORT = [f"a{number}" for number in range(120)]
LONG = [f"complicated{number}" for number in range(120)]


def rated(n_rows: int, n_groups: int, seed: int = 0) -> Corpus:
    """Return excerpts of 60 words; the more long ones, the lower the target."""
    generator = np.random.default_rng(seed)
    difficulty = generator.random(n_rows)
    excerpts = [
        " ".join(generator.choice(LONG if generator.random() < hard else SHORT) for _ in range(60)).encode() + b"."
        for hard in difficulty
    ]
    targets = (1 - 3 * difficulty + generator.normal(0, 0.1, n_rows)).astype(np.float32)
    return Corpus(excerpts, targets, np.sort(np.arange(n_rows) % n_groups).astype(np.int64))


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as a CSV file with a header."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
