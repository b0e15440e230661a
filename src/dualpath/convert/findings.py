"""What a check finds: where, what, and what to write instead."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualpath.convert.models import RepositoryModel


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


def at(model: RepositoryModel, *path: str | int, message: str, fails: bool = True) -> RepositoryFault:
    """Make a finding at a field of a model's config."""
    return RepositoryFault(model.file, model.config.line(*path), model.name, message, fails)
