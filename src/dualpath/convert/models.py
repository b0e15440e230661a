"""The models of a repository, with the places of what their configs say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.convert.findings import RepositoryFault
from dualpath.convert.graph import EnsembleStep
from dualpath.errors import UserError
from dualpath.repository import folders
from dualpath.repository.pbtxt import Config
from dualpath.repository.pbtxt_fields import place

CONFIG_FILE = "config.pbtxt"
STEPS = ("ensemble_scheduling", "step")
PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}")
_COMMENT = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|#[^\n]*""")


@dataclass(frozen=True)
class Placeholder:
    """What a template still leaves open, such as "${max_batch_size}", and where."""

    text: str
    line: int
    column: int


class TemplateConfig(UserError):
    """A config is a template that has not been filled in. The message gives the first open place.

    Attributes:
        placeholders: all that is open.
    """

    def __init__(self, file: Path, placeholders: tuple[Placeholder, ...]) -> None:
        first = placeholders[0]
        super().__init__(
            f"{file}:{first.line}:{first.column}: expected a config, got a template with {first.text} still open. "
            "Fill it in first; the project that the template comes from has a script for that."
        )
        self.placeholders = placeholders


@dataclass(frozen=True)
class RepositoryModel:
    """A model of a repository.

    Attributes:
        folder: its name is the one by which Triton knows the model.
        file: its config; the file need not be there, since Triton can do without for some backends.
        config: the config's text and places; an empty one if there is no file.
        meaning: where the message comes from, if the text as it is has none.
    """

    folder: Path
    file: Path
    config: Config
    meaning: Config | None = None

    @property
    def name(self) -> str:
        """The name by which Triton knows the model."""
        return self.folder.name

    @property
    def message(self) -> Any:
        """The `ModelConfig`."""
        return (self.meaning or self.config).message

    @property
    def versions(self) -> list[int]:
        """The version folders that are there; an ensemble's may be empty."""
        return [int(path.name) for path in reversed(folders.versions(self.folder))]

    @property
    def is_ensemble(self) -> bool:
        """Whether the config describes an ensemble, also one that does not say it as Triton wants it."""
        return self.config.find("ensemble_scheduling") is not None or "ensemble" in (
            self.message.platform,
            self.message.backend,
        )

    def at(self, *path: str | int, message: str, fails: bool = True) -> RepositoryFault:
        """Make a finding at a field of the config."""
        return RepositoryFault(self.file, self.config.line(*path), self.name, message, fails)

    def at_step(self, step: EnsembleStep, *path: str | int, message: str) -> RepositoryFault:
        """Make a finding at a step of this ensemble, or at a field of the step."""
        return self.at(*STEPS, step.index, *path, message=f"step {step.index} ({step.model}): {message}")


class Models:
    """The models of one repository folder, each read once."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self._models: dict[str, RepositoryModel | None] = {}

    def names(self) -> list[str]:
        """Return the names of the folders that Triton would take for models."""
        return sorted(
            folder.name for folder in self.repository.iterdir() if folder.is_dir() and not folder.name.startswith(".")
        )

    def add(self, model: RepositoryModel) -> None:
        """Take a model whose config lies elsewhere."""
        self._models[model.name] = model

    def find(self, name: str) -> RepositoryModel | None:
        """Return a model; None if the repository has no such folder.

        Raises:
            UserError: its config cannot be read.
        """
        if name not in self._models:
            folder = self.repository / name
            self._models[name] = read_model(folder, folder / CONFIG_FILE) if name and folder.is_dir() else None
        return self._models[name]


def read_model(folder: Path, file: Path) -> RepositoryModel:
    """Read a model's config.

    Raises:
        TemplateConfig: it has places that are still open.
        ConfigSyntaxError: it is no config.
    """
    if not file.is_file():
        return RepositoryModel(folder, file, Config("", str(file)))
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    if placeholders := open_places(text):
        raise TemplateConfig(file, placeholders)
    return RepositoryModel(folder, file, Config(text, str(file)))


def open_places(text: str) -> tuple[Placeholder, ...]:
    """Return the `${...}` outside comments."""
    code = _COMMENT.sub(lambda match: match[1] or " " * len(match[0]), text)
    return tuple(Placeholder(match[0], *place(code, match.start())) for match in PLACEHOLDER.finditer(code))
