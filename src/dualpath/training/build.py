"""Build the files that the model repository serves but does not carry.

`bert-large/1` gets model.pt and tokenizer.json, `cuml/1` gets checkpoint.tl and word_lists.json; beside them a
build.json says what they were made from, so that a second build knows whether there is anything to do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath import __version__
from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.contract import BERT, FOREST
from dualpath.training.artifacts import installed, publishing, sha256
from dualpath.training.bert import minilm
from dualpath.training.bert.head import HEAD_FILE, Head

DATA_FOLDER = Path(__file__).parent / "data"
HEAD = DATA_FOLDER / HEAD_FILE
TABLE = DATA_FOLDER / "forest_table.npz"

STAMP = "build.json"
PRECISIONS = ("float32", "bfloat16")
"""What BERT computes in, anywhere."""
GPU_PRECISIONS = (*PRECISIONS, "float16")
"""On a GPU. A CPU gives the same scores in float16, and takes several times as long for them."""
ENCODER_SHAPES = ("minilm", "bert-large")
"""The default encoder, and the architecture of bert-large-uncased with random weights, which is there to be timed."""

Makers = dict[str, Callable[[Path], None]]
"""File name -> what writes that file to a path, in the order of writing."""


@dataclass(frozen=True)
class Artifact:
    """A file of the model repository and what it took to have it there."""

    model: str
    path: Path
    n_bytes: int
    elapsed_s: float
    up_to_date: bool


def build(
    model_repository: Path,
    precision: str = "float32",
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
    encoder_shape: str = "minilm",
) -> list[Artifact]:
    """Build the default models' artifacts, or find them up to date.

    The old files stay whole until the new ones are complete and checked.

    Args:
        precision: of the encoder, one of GPU_PRECISIONS; its pooling and head are always float32.
        force: build even what is up to date.
        report: gets a line before each step.
        encoder_shape: one of ENCODER_SHAPES.
    Raises:
        UserError: no such model repository, precision or shape, a missing package, or an encoder with other weights.
        RuntimeError: an exported model does not score what the original scores.
    """
    choices = (("precision", precision, GPU_PRECISIONS), ("encoder shape", encoder_shape, ENCODER_SHAPES))
    for what, found, known in choices:
        if found not in known:
            raise UserError(f"{what}: expected {' or '.join(known)}, found {found!r}.")
    bert_folder, forest_folder = (_version_folder(model_repository, model.name) for model in (BERT, FOREST))
    return [
        *_build_bert(bert_folder, encoder_shape, precision, force, report),
        *_build_forest(forest_folder, force, report),
    ]


def _version_folder(model_repository: Path, model: str) -> Path:
    if not (model_repository / model).is_dir():
        found = "no such folder" if not model_repository.is_dir() else f"no folder {model} in it"
        raise UserError(
            f"{model_repository}: expected a model repository with {BERT.name} and {FOREST.name}, found {found}. "
            "Name it with --model-repository."
        )
    return model_repository / model / "1"


def _build_bert(
    folder: Path, encoder_shape: str, precision: str, force: bool, report: Callable[[str], None]
) -> list[Artifact]:
    versions = installed(minilm.PACKAGE, "tokenizers", "torch", "transformers")
    encoder = minilm.minilm_folder()  # its vocabulary is bert-large-uncased's too
    trained = encoder_shape == "minilm"

    def model(path: Path) -> None:
        with needs("models"):
            import torch

        from dualpath.training.bert.encoder import Regressor, load_encoder
        from dualpath.training.bert.export import export_regressor
        from dualpath.training.bert.untrained import untrained_bert_large

        dtype = getattr(torch, precision)
        if trained:
            export_regressor(Regressor(load_encoder(encoder, dtype), Head.load(HEAD)), path)
        else:
            export_regressor(untrained_bert_large(dtype), path)

    def tokenizer(path: Path) -> None:
        from dualpath.training.bert.encoders import write_tokenizer

        write_tokenizer(encoder, path)

    weights = [encoder / "config.json", encoder / "model.safetensors", HEAD] if trained else []
    recipe = {
        "encoder": minilm.NAME if trained else f"{encoder_shape}, random weights",
        "precision": precision,
        "inputs": _digests(encoder / "tokenizer.json", *weights),
        "versions": versions,
    }
    makers: Makers = {"model.pt": model, "tokenizer.json": tokenizer}
    return _build(BERT.name, folder, recipe, makers, force, report)


def _build_forest(folder: Path, force: bool, report: Callable[[str], None]) -> list[Artifact]:
    def checkpoint(path: Path) -> None:
        from dualpath.readability.features import features
        from dualpath.training.forest.fit import ForestTable, export_forest, fit_forest

        table = ForestTable.load(TABLE)
        export_forest(fit_forest(table), features(table.counts), path)

    def word_lists(path: Path) -> None:
        from dualpath.training.forest.fit import ForestTable

        path.write_text(ForestTable.load(TABLE).word_lists.to_json(), encoding="utf-8")

    recipe = {"inputs": _digests(TABLE), "versions": installed("scikit-learn", "treelite")}
    makers: Makers = {"checkpoint.tl": checkpoint, "word_lists.json": word_lists}
    return _build(FOREST.name, folder, recipe, makers, force, report)


def _build(
    model: str,
    folder: Path,
    recipe: dict[str, Any],
    makers: Makers,
    force: bool,
    report: Callable[[str], None],
) -> list[Artifact]:
    recipe["versions"]["dualpath"] = __version__
    if not force and _up_to_date(folder, recipe, makers):
        report(f"{model}: up to date")
        return [_artifact(model, folder / name, 0.0, up_to_date=True) for name in makers]

    elapsed_s = {}
    with publishing(folder.parent.parent, [model], int(folder.name)) as folders:
        new = folders[model]
        for name, make in makers.items():
            report(f"{model}: building {name}")
            start = time.perf_counter()
            make(new / name)
            elapsed_s[name] = time.perf_counter() - start
        stamp = recipe | {"artifacts": _digests(*(new / name for name in makers))}
        (new / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    return [_artifact(model, folder / name, elapsed_s[name], up_to_date=False) for name in makers]


def _up_to_date(folder: Path, recipe: dict[str, Any], makers: Makers) -> bool:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return bool(stamp == recipe | {"artifacts": _digests(*(folder / name for name in makers))})
    except (FileNotFoundError, ValueError):
        return False


def _digests(*paths: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in paths}


def _artifact(model: str, path: Path, elapsed_s: float, up_to_date: bool) -> Artifact:
    return Artifact(model, path, path.stat().st_size, elapsed_s, up_to_date)
