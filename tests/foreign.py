"""Ensembles of other people's shapes, with stand-in models: the folders in tests/ensembles, made servable."""

import shutil
from pathlib import Path

from paths import ROOT

SOURCE = ROOT / "tests" / "ensembles"
SERVED = (
    "image_classify",
    "text_similarity",
    "tiled_detection",
    "intent",
    "ranker_shadow",
    "transcription",
    "tabular",
    "reshaped",
    "every_dtype",
    "ragged_pool",
    "chat",
    "ocr",
    "price",
    "two_towers",
)
"""The ensembles that no other contains."""
VERSIONS = {"ranker": (1, 2)}
STAND_IN = SOURCE / "stand_in.py"


def build(repository: Path) -> Path:
    """Write all models into a repository, each with its versions, steps with the stand-in's code."""
    for source in SOURCE.iterdir():
        if not source.is_dir():
            continue
        folder = repository / source.name
        shutil.copytree(source, folder)
        config = (source / "config.pbtxt").read_bytes()
        for version in VERSIONS.get(source.name, (1,)):
            (folder / str(version)).mkdir()
            if b"python" in config:
                shutil.copy(STAND_IN, folder / str(version) / "model.py")
    return repository
