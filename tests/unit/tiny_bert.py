"""BERT regressors small enough to fit in a test."""

import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from dualpath.training.bert.encoders import minilm_folder
from dualpath.training.bert.regressor import Head, Regressor

VOCABULARY = 8


def tiny_encoder(n_layers: int = 2, seed: int = 0) -> BertModel:
    """Return an encoder of random weights; equal arguments give equal weights."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def tiny_regressor(n_layers: int = 2, seed: int = 0) -> Regressor:
    """Return a regressor whose head reads the last hidden state."""
    return Regressor(tiny_encoder(n_layers, seed), Head(np.zeros(16, np.float32), 0.0))


def rows_with_targets(n_rows: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return rows of token ids, and as targets how often a row holds a token below 4, as a share, times four."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, VOCABULARY, rng.integers(5, 20)).astype(np.int64) for _ in range(n_rows)]
    return rows, np.array([4 * np.mean(row < 4) for row in rows], np.float32)


def save_encoder(folder: Path, **config: int) -> Path:
    """Write a random encoder with MiniLM's vocabulary and tokenizer, in Hugging Face's layout."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(BertConfig(**sizes | config), add_pooling_layer=False)
    encoder.save_pretrained(folder)
    shutil.copy(minilm_folder() / "tokenizer.json", folder)
    return folder


def served_repository(folder: Path) -> Path:
    """Make a model repository in a folder, whose version 1 of both models stands for what is served."""
    repository = folder / "model_repository"
    for model in ("bert-large", "cuml"):
        (repository / model / "1").mkdir(parents=True)
        (repository / model / "1" / "old").write_text("served")
    return repository


def write_corpus(path: Path, n_rows: int = 40, seed: int = 0) -> Path:
    """Write rated excerpts, two of a source, whose target is the number of short words in them, divided by eight."""
    rng = np.random.default_rng(seed)
    short, long = (["".join(rng.choice([*"aeimnorst"], length)) for _ in range(150)] for length in (4, 11))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "url_legal", "license", "excerpt", "target", "standard_error"])
        for row in range(n_rows):
            n_short = rng.integers(31)
            chosen = [*rng.choice(short, n_short), *rng.choice(long, 30 - n_short)]
            writer.writerow(
                [row, f"https://example.org/{row // 2}", "", " ".join(rng.permutation(chosen)), n_short / 8, 0.5]
            )
    return path
