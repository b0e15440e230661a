"""Artifacts that are cut, changed by a bit, or of a newer library, at start and at reload."""

import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from clients import TEXTS
from row import Found, Row, Stage, together
from served_process import DUALPATH, REPOSITORY, Ended, ServedProcess, run, served

from dualpath.repository.facts import FACTS_FILE, Facts
from dualpath.repository.folders import newest
from dualpath.repository.publishing import publish
from dualpath.serving.client import Scorer, open_client

Damage = Callable[[Path], None]

NEWER_TREELITE = 99
"""The major version that a checkpoint of a Treelite of the future would name in its first four bytes."""


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _of_newer_treelite(path: Path) -> None:
    """Change the version that a checkpoint names, and record the file as it is then: only Treelite can tell."""
    path.write_bytes(struct.pack("<i", NEWER_TREELITE) + path.read_bytes()[4:])
    facts = Facts.of(path.parent)
    (path.parent / FACTS_FILE).unlink(missing_ok=True)
    facts.write(path.parent)


DAMAGES: tuple[tuple[str, str, str, Damage], ...] = (
    ("model.pt truncated", "bert-large", "model.pt", _cut),
    ("model.pt with a bit flipped", "bert-large", "model.pt", _flip_a_bit),
    ("checkpoint.tl truncated", "cuml", "checkpoint.tl", _cut),
    ("checkpoint.tl with a bit flipped", "cuml", "checkpoint.tl", _flip_a_bit),
    ("checkpoint.tl of a newer Treelite", "cuml", "checkpoint.tl", _of_newer_treelite),
)


def rows() -> Iterator[Row]:
    yield Row("artifacts damaged, at start", "named and refused, exit code 1 or 2", _at_start)
    yield Row("artifacts damaged, at reload", "named and refused, the served version stays up", _at_reload)


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of the model repository."""
    with tempfile.TemporaryDirectory(prefix="dualpath-chaos-") as folder:
        copy = Path(folder) / "model_repository"
        shutil.copytree(REPOSITORY, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        yield copy


def _at_start(stage: Stage) -> Found:
    results = []
    for what, model, file, damage in DAMAGES:
        with copied() as repository:
            damage(newest(repository / model) / file)
            it = ServedProcess(repository)
            try:
                it.await_start()
                said, status = "it started", it.end()
            except Ended as error:
                said, status = str(error), it.end()
        results.append((what, status, said, status in (1, 2) and model in said and said.count("\n") == 0))
    return together(*results)


def _at_reload(stage: Stage) -> Found:
    results = []
    with copied() as repository, served(repository) as it:
        client = open_client(it.at["gRPC"])
        score = partial(Scorer(client, "ensemble_all").score, list(TEXTS), np.full(len(TEXTS), 0.5, np.float32))
        before = score()
        for what, model, file, damage in DAMAGES:
            source = newest(repository / model)

            def copy_of(folder: Path, source: Path = source) -> Facts:
                for path in source.iterdir():
                    if path.name != FACTS_FILE:
                        shutil.copy(path, folder)
                return Facts.of(source)

            number = publish(repository, {model: copy_of})
            damage(repository / model / str(number) / file)
            reload = [str(DUALPATH), "reload", "--model-repository", str(repository), "--url", it.at["gRPC"]]
            status, said = run(reload, 120)
            held = status in (1, 2) and model in said and bool(np.array_equal(score(), before))
            results.append((what, status, said, held))
            for member in repository.iterdir():
                version = member / str(number)
                version.unlink() if version.is_symlink() else shutil.rmtree(version, ignore_errors=True)
        found, restarts = together(*results), it.restarts()
        client.close()
    good = found.good and not restarts
    return Found(f"{found.seen}; {'same scores throughout' if good else 'not as it should be'}", good)
