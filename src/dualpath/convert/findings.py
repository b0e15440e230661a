"""What a check finds: where, what, and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


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


def meant(name: str, known: Sequence[str]) -> str:
    """Suggest a name that is there."""
    close = get_close_matches(name, known, 1)
    return f"Write {close[0]!r}, if that is meant." if close else "Correct the name, or add what it names."
