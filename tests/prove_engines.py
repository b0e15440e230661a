"""Prove that both engines give BERT the same scores: `python tests/prove_engines.py [N_EXCERPTS] [MODEL.pt]`.

Excerpts are random token ids of every length from 1 to 512, padded to their buckets.
"""

import sys
from pathlib import Path

import numpy as np

from dualpath import inference
from dualpath.readability.contract import MAX_TOKENS
from dualpath.readability.reference import BERT_INPUTS
from dualpath.readability.tokens import pad
from dualpath.repository.folders import newest

FIRST_WORD, N_WORDS = 1_000, 29_000


def largest_difference(model: Path, n_excerpts: int) -> tuple[str, float]:
    """Score excerpts of 1 to 512 tokens, in calls of one row and of three, by torch and by OpenVINO.

    Returns:
        What the second engine is, and the largest difference between two scores.
    """
    engines = [inference.load(model, BERT_INPUTS, engine) for engine in ("torch", "openvino")]
    rng = np.random.default_rng(0)
    lengths = np.linspace(1, MAX_TOKENS, n_excerpts).astype(int)
    rows = [rng.integers(FIRST_WORD, FIRST_WORD + N_WORDS, length) for length in lengths]
    differences = [0.0]
    while rows:
        n_rows = 1 if len(rows) % 4 == 0 else 3
        chunk, rows = pad(rows[:n_rows]), rows[n_rows:]
        ours, theirs = (engine.run(chunk)[0] for engine in engines)
        differences.append(float(np.abs(ours - theirs).max()))
    return engines[1].engine, max(differences)


if __name__ == "__main__":
    n_excerpts = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else newest(Path("model_repository/bert-large")) / "model.pt"
    engine, difference = largest_difference(path, n_excerpts)
    print(f"{n_excerpts} excerpts, torch against {engine}: the scores differ by {difference:.2e} at most")
