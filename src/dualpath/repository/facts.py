"""What a version of a model is: one file of facts in its folder, which publishing writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualpath.errors import UserError

FACTS_FILE = "version.json"
_CARD = "card.json"
FACTS_FILES = (FACTS_FILE, "build.json", _CARD)
"""The file of facts, and those that held them before there was one."""


@dataclass(frozen=True)
class Facts:
    """What is known of a version; empty if nothing is.

    Attributes:
        encoder: what BERT's encoder is, such as "minilm".
        precision: what BERT computes in, such as "float32".
        inputs: SHA-256 of what the version was made from, by file name.
        versions: of the packages that made it.
        artifacts: SHA-256 of the version's files, by name.
        training: what its training found (`training.card.Card`); None if it was not trained here.
    """

    encoder: str | None = None
    precision: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, version: Path) -> Facts:
        """Read the facts of a version folder.

        Raises:
            UserError: the file holds something else.
        """
        path = next((version / name for name in FACTS_FILES if (version / name).is_file()), None)
        if path is None:
            return cls()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if path.name == _CARD:
                found = {"encoder": found["encoder"], "precision": found.pop("precision"), "training": found}
            for name, value in found.items():
                expected = str if name in ("encoder", "precision") else dict
                if not isinstance(value, expected | None):
                    raise TypeError(f"{value!r} as its {name}")
            return cls(**found)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: expected the facts of a version, got: {error}. Restore it.") from None

    def write(self, version: Path) -> None:
        """Write the facts into a version folder, with the digests of all files that it holds."""
        facts = dataclasses.replace(self, artifacts=digests(*sorted(version.iterdir())))
        known = {name: value for name, value in dataclasses.asdict(facts).items() if value}
        (version / FACTS_FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def damaged(self, version: Path) -> list[str]:
        """Name the files of a version folder that are missing or are not what was published."""
        return [
            name
            for name, digest in self.artifacts.items()
            if not (version / name).is_file() or sha256(version / name) != digest
        ]


def is_published(version: Path) -> bool:
    """Tell if a version folder was published, not written by hand: it has facts."""
    return any((version / name).is_file() for name in FACTS_FILES)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(*paths: Path) -> dict[str, str]:
    """Return the files' SHA-256 by name."""
    return {path.name: sha256(path) for path in paths}
