"""The models of a repository and its ensembles, with the places of what their configs say, and what is wrong there."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualpath.errors import UserError
from dualpath.repository import folders
from dualpath.repository.pbtxt import Config
from dualpath.repository.pbtxt_fields import place

CONFIG_FILE = "config.pbtxt"
STEPS = ("ensemble_scheduling", "step")
PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}")
_COMMENT = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|#[^\n]*""")


class TemplateConfig(UserError):
    """A config is a template that has not been filled in. The message gives the first open place.

    Attributes:
        placeholders: all that is open, such as "${max_batch_size}", with line and column.
    """

    def __init__(self, file: Path, placeholders: list[tuple[str, int, int]]) -> None:
        text, line, column = placeholders[0]
        super().__init__(
            f"{file}:{line}:{column}: expected a config, got a template with {text} still open. "
            "Fill it in first; the project that the template comes from has a script for that."
        )
        self.placeholders = placeholders


@dataclass(frozen=True, order=True)
class RepositoryFault:
    """One fault.

    Attributes:
        line: from 1.
        model: the model's name.
        message: `<what>: expected <what>, got <what>. <what to write instead>.`
        fails: whether Triton refuses the model, or its requests; otherwise it only runs worse than it could.
    """

    file: Path
    line: int
    model: str
    message: str
    fails: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self) | {"file": str(self.file)}


@dataclass(frozen=True)
class Place:
    """A line of a model's file, from 1; `what` begins the message of a fault there."""

    file: Path
    line: int
    model: str
    what: str = ""

    def fault(self, message: str, fails: bool = True) -> RepositoryFault:
        return RepositoryFault(self.file, self.line, self.model, self.what + message, fails)


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
        named = (self.message.platform, self.message.backend)
        return self.config.find("ensemble_scheduling") is not None or "ensemble" in named

    def at(self, *path: str | int) -> Place:
        """Return the place of a field of the config."""
        return Place(self.file, self.config.line(*path), self.name)

    def at_step(self, index: int, model: str, *path: str | int) -> Place:
        """Return the place of a step, given its index and what it calls, or of one of its fields."""
        return Place(self.file, self.config.line(*STEPS, index, *path), self.name, f"step {index} ({model}): ")


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
    code = _COMMENT.sub(lambda match: match[1] or " " * len(match[0]), text)
    if open_places := [(match[0], *place(code, match.start())) for match in PLACEHOLDER.finditer(code)]:
        raise TemplateConfig(file, open_places)
    return RepositoryModel(folder, file, Config(text, str(file)))
