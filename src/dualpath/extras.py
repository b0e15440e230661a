"""Find the packages that an extra brings, or name the extra."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from dualpath.errors import UserError


class MissingExtra(UserError, ImportError):
    """A package is missing that an extra of Dualpath brings. The message has the `pip install` line."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"package {package}: expected it to be installed, got none. Run `pip install 'dualpath[{extra}]'`."
        )


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import inside the block what an extra brings.

    Raises:
        MissingExtra: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "dualpath":
            raise
        raise MissingExtra(package, extra) from None


def require(extra: str, *packages: str) -> None:
    """Check, without importing them, that the packages that an extra brings are installed.

    Args:
        packages: by the names that they are imported by.
    Raises:
        MissingExtra: one is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, extra)


def installed(*packages: str, extra: str = "models") -> dict[str, str]:
    """Return the packages' versions without importing them.

    Args:
        packages: by the names that they are installed by.
    Raises:
        MissingExtra: one is not installed.
    """
    from importlib import metadata

    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise MissingExtra(package, extra) from None
    return versions
