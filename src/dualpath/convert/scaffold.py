"""Write a BLS model folder that does what an ensemble does: config, code and a unit test; or say why it cannot be."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dualpath
from dualpath.convert.graph import CannotInline, Ensemble, EnsembleStep, Graph, inlined, load_ensemble
from dualpath.convert.models import CONFIG_FILE, STEPS, Models, RepositoryFault
from dualpath.convert.plan import plan
from dualpath.convert.wiring import check_wiring
from dualpath.convert.write import model_py
from dualpath.convert.write_test import unit_test
from dualpath.errors import UserError

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
    found = load_ensemble(ensemble, config)
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
    if refused := _refusals(found):
        raise Refused(refused)
    texts = dict(_files(found, name))
    _write(folder, texts, vendor)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    notes = (*_own_notes(found), *dict.fromkeys(_step_notes(found.graph, found.models)))
    return Scaffold(folder, tuple(written), notes)


def _opened(found: Ensemble) -> Graph:
    try:
        return inlined(found.graph)
    except CannotInline as error:
        step = found.graph.steps[error.step]
        message = (
            f"--inline: expected a nested ensemble that can be opened, got one of which {error}. Leave out --inline, "
            "so that it is called as one model."
        )
        raise Refused([found.model.at_step(step.index, step.model).fault(message)]) from None


def _refusals(ensemble: Ensemble) -> list[RepositoryFault]:
    """Return the reasons for which an ensemble is not translated, by line."""
    found = list(check_wiring(ensemble.model, ensemble.models))
    found += _steps(ensemble)
    if not found:
        try:
            plan(ensemble.graph.steps)
        except ValueError as error:
            found.append(ensemble.model.at(STEPS[0]).fault(f"expected a graph of calls, got one in which {error}."))
    return sorted(set(found))


def _steps(ensemble: Ensemble) -> Iterator[RepositoryFault]:
    for step in ensemble.graph.steps:
        if step.namespace:
            yield ensemble.model.at_step(step.index, step.model, "model_namespace").fault(
                f"model_namespace: expected none, got {step.namespace!r}: a BLS request names a model "
                "without a namespace. Copy the model into this repository under a name of its own."
            )
        for name in _sequence_models(step):
            yield ensemble.model.at_step(step.index, step.model, "model_name").fault(
                f"sequence_batching of {name}: expected a model without sequences, got one with: its "
                "state belongs to the caller's sequence id, which dualpath.bls does not hand on. Keep the ensemble "
                "for this step."
            )


def _sequence_models(step: EnsembleStep) -> Iterator[str]:
    if step.sequence:
        yield step.model
    for inner in step.graph.steps if step.graph else ():
        yield from _sequence_models(inner)


def _own_notes(ensemble: Ensemble) -> Iterator[str]:
    """Say what the written model does differently from the ensemble, or what was assumed."""
    model, message = ensemble.model, ensemble.model.message
    if message.name and message.name != model.name:
        yield f"{model.file} says name {message.name!r}; the folder's name {model.name!r} is used, as Triton does."
    for unknown in model.config.unknown:
        yield f"{model.file}:{unknown.line}:{unknown.column}: {unknown.name} is not known here and has no counterpart."
    if message.ensemble_scheduling.max_inflight_requests:
        yield "max_inflight_requests has no counterpart: dualpath.bls bounds the rows in flight (1,024 by default)."
    if message.HasField("version_policy"):
        yield "version_policy is left out: the new model has version 1 alone."


def _step_notes(graph: Graph, models: Models) -> Iterator[str]:
    for step in graph.steps:
        found = models.find(step.model)
        if found is None:
            continue
        if not step.known:
            yield (
                f"{step.model}: its config names no tensors, so that it is taken to have "
                f"{'a' if step.batched else 'no'} batch dimension, as the ensemble has."
            )
        if found.message.dynamic_batching.priority_levels > 1:
            yield f"{step.model} has priority_levels: BLS requests have no priority, so all wait at its default level."
        if step.graph:
            yield from _step_notes(step.graph, models)


def _files(found: Ensemble, name: str) -> Iterator[tuple[str, bytes]]:
    """Give the files of the new model."""
    yield CONFIG_FILE, config_pbtxt(found, name).encode("utf-8", "surrogateescape")
    yield "1/model.py", model_py(found.graph).encode()
    module = "".join(c if c.isalnum() else "_" for c in name)
    yield f"test_{module}.py", unit_test(found.graph, found.model.message, name).encode()
    for output in found.model.message.output:
        if output.label_filename:
            labels = found.model.folder / output.label_filename
            if not labels.is_file():
                raise UserError(f"{labels}: expected the labels of {output.name!r}, got no such file. Put it there.")
            yield output.label_filename, labels.read_bytes()


def config_pbtxt(found: Ensemble, name: str) -> str:
    """Return the config of the BLS model: the ensemble's own words for what both have."""
    config = found.model.config
    words = [config.text[field.start : field.end] for field in config.fields if field.name in COPIED]
    words = [written.replace("\r\n", "\n").rstrip(",; \t\n") for written in words]  # without the separator behind it
    lines = [
        f"# The ensemble {found.model.name} as a BLS model: the same tensors in and out.",
        "# One instance serves many requests at once, since it waits for its children without blocking.",
        f'name: "{name}"',
        'backend: "python"',
        *words,
        "instance_group [ { kind: KIND_CPU, count: 1 } ]",
    ]
    if found.graph.max_batch_size:
        lines.append("dynamic_batching { }")
    if found.graph.decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    return "\n".join(lines) + "\n"


def _write(folder: Path, texts: dict[str, bytes], vendor: bool) -> None:
    """Write a model's folder as a whole: it is there with all its files or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(f"{scratch}-old")
        for name, content in texts.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        if vendor:  # beside model.py, where Triton's Python backend finds it
            package, copy = Path(dualpath.__file__).parent, new / "1" / "dualpath"
            shutil.copytree(package / "bls", copy / "bls", ignore=shutil.ignore_patterns("__pycache__", "testing*"))
            shutil.copy2(package / "__init__.py", copy / "__init__.py")
        is_replaced = folder.exists()
        if is_replaced:
            folder.rename(old)
        new.rename(folder)
        if is_replaced:
            shutil.rmtree(old)
