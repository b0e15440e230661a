"""Find an ensemble in a model repository and read its graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.convert.graph import Graph, read_graph
from dualpath.convert.models import CONFIG_FILE, Models, RepositoryModel, read_model
from dualpath.errors import UserError


@dataclass(frozen=True)
class Ensemble:
    """An ensemble, with the models of the repository that it lies in."""

    model: RepositoryModel
    models: Models
    graph: Graph


def load(folder: Path, config: Path | None = None) -> Ensemble:
    """Read an ensemble and the configs of its steps.

    Args:
        folder: the ensemble's folder in its model repository.
        config: its config, if that is not config.pbtxt in this folder.
    Raises:
        UserError: there is no ensemble, or a config cannot be read.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of an ensemble, got no such folder. Pass REPOSITORY/ENSEMBLE.")
    file = config or folder / CONFIG_FILE
    if not file.is_file():
        next_step = "Correct --config." if config else _other_config(folder)
        raise UserError(f"{file}: expected the ensemble's config, got no such file. {next_step}")
    model = read_model(folder, file)
    if not model.is_ensemble:
        raise UserError(
            f"{file}: expected an ensemble, got a config without ensemble_scheduling. Pass an ensemble's folder."
        )
    models = Models(folder.parent)
    models.add(model)
    return Ensemble(model, models, graph_of(model, models))


def graph_of(model: RepositoryModel, models: Models) -> Graph:
    """Return the graph of an ensemble, named after its folder."""

    def find(name: str) -> Any:
        found = models.find(name)
        return named(found) if found else None

    return read_graph(named(model), find)


def named(model: RepositoryModel) -> Any:
    """Return the model's config with the name by which Triton knows it."""
    message = type(model.message)()
    message.CopyFrom(model.message)
    message.name = model.name
    return message


def _other_config(folder: Path) -> str:
    if others := sorted(folder.glob("**/*.pbtxt")):
        return f"Pass --config {others[0]}."
    return "Pass the folder of an ensemble."
