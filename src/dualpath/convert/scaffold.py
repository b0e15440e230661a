"""Write a BLS model folder that does what an ensemble does: config, code and a unit test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dualpath
from dualpath.convert import refuse
from dualpath.convert.ensemble import Ensemble, load
from dualpath.convert.findings import RepositoryFault
from dualpath.convert.graph import Graph
from dualpath.convert.inline import CannotInline, inlined
from dualpath.convert.models import CONFIG_FILE
from dualpath.convert.write import model_py
from dualpath.convert.write_test import unit_test
from dualpath.errors import UserError
from dualpath.repository.pbtxt import Config

COPIED = ("max_batch_size", "input", "output", "response_cache", "metric_tags", "parameters")
"""The fields of an ensemble's config that mean the same for a BLS model."""


class Refused(Exception):
    """The ensemble cannot be translated.

    Attributes:
        findings: why, by line.
    """

    def __init__(self, findings: list[RepositoryFault]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


@dataclass(frozen=True)
class Scaffold:
    """What was written.

    Attributes:
        files: by name, in the folder.
        notes: what the model does differently from the ensemble, or what was assumed.
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


def scaffold(
    ensemble: Path,
    *,
    out: str | None = None,
    config: Path | None = None,
    force: bool = False,
    inline: bool = False,
    vendor: bool = False,
) -> Scaffold:
    """Write the BLS model of an ensemble beside it.

    Args:
        ensemble: the ensemble's folder in its model repository.
        out: name of the new model; by default the ensemble's with "_bls" behind it.
        config: the ensemble's config, if that is not config.pbtxt in its folder.
        force: replace a model of that name.
        inline: open nested ensembles instead of calling each as one model.
        vendor: put a copy of `dualpath.bls` beside the model.
    Raises:
        UserError: there is no ensemble, or already a model of that name.
        Refused: the ensemble cannot be translated.
    """
    found = load(ensemble, config)
    name = out or f"{found.model.name}_bls"
    if not name.isprintable() or name != Path(name).name or name.startswith("."):
        raise UserError(f"--out: expected the name of a model, got {name!r}. Give a name without a path.")
    folder = found.models.repository / name
    if folder.exists() and (not force or folder == found.model.folder):
        raise UserError(
            f"{folder}: expected no such folder, got one. Choose another name with --out"
            f"{', or replace it with --force' if folder != found.model.folder else ''}."
        )
    found = replace(found, graph=_opened(found)) if inline else found
    if refused := refuse.refusals(found):
        raise Refused(refused)
    texts = dict(_files(found, name))
    _write(folder, texts, vendor)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Scaffold(folder, tuple(written), tuple(refuse.notes(found)))


def _opened(found: Ensemble) -> Graph:
    try:
        return inlined(found.graph)
    except CannotInline as error:
        step = found.graph.steps[error.step]
        message = (
            f"--inline: expected a nested ensemble that can be opened, got one of which {error}. Leave out --inline, "
            "so that it is called as one model."
        )
        raise Refused([found.model.at_step(step, message=message)]) from None


def _files(found: Ensemble, name: str) -> Iterator[tuple[str, bytes]]:
    """Give the files of the new model."""
    yield CONFIG_FILE, config_pbtxt(found, name).encode("utf-8", "surrogateescape")
    yield "1/model.py", model_py(found.graph).encode()
    yield f"test_{_module(name)}.py", unit_test(found.graph, found.model.message, name).encode()
    for output in found.model.message.output:
        if output.label_filename:
            labels = found.model.folder / output.label_filename
            if not labels.is_file():
                raise UserError(f"{labels}: expected the labels of {output.name!r}, got no such file. Put it there.")
            yield output.label_filename, labels.read_bytes()


def _module(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def config_pbtxt(found: Ensemble, name: str) -> str:
    """Return the config of the BLS model: the ensemble's own words for what both have."""
    config = found.model.config
    lines = [
        f"# The ensemble {found.model.name} as a BLS model: the same tensors in and out.",
        "# One instance serves many requests at once, since it waits for its children without blocking.",
        f'name: "{name}"',
        'backend: "python"',
        *(_words(config, field.start, field.end) for field in config.fields if field.name in COPIED),
        "instance_group [ { kind: KIND_CPU, count: 1 } ]",
    ]
    if found.graph.max_batch_size:
        lines.append("dynamic_batching { }")
    if found.graph.decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    return "\n".join(lines) + "\n"


def _words(config: Config, start: int, end: int) -> str:
    """Return a field as its author wrote it, without the separator behind it."""
    return config.text[start:end].replace("\r\n", "\n").rstrip(",; \t\n")


def _write(folder: Path, texts: dict[str, bytes], vendor: bool) -> None:
    """Write a model's folder as a whole: it is there with all its files or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(f"{scratch}-old")
        for name, content in texts.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        if vendor:
            _vendor(new / "1")
        is_replaced = folder.exists()
        if is_replaced:
            folder.rename(old)
        new.rename(folder)
        if is_replaced:
            shutil.rmtree(old)


def _vendor(version: Path) -> None:
    """Copy the toolkit beside model.py, where Triton's Python backend finds it."""
    package = Path(dualpath.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "testing*")
    shutil.copytree(package / "bls", version / "dualpath" / "bls", ignore=ignored)
    shutil.copy2(package / "__init__.py", version / "dualpath" / "__init__.py")
