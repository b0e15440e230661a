"""Files that appear whole or not at all, and the packages that make them."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualpath.extras import MissingExtra


def installed(*packages: str, extra: str = "models") -> dict[str, str]:
    """Return the packages' versions without importing them; a missing one is a UserError that names the extra."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtra(package, extra) from None
    return versions


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to; if the block succeeds it replaces `path` in one step."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
