"""The report of a comparison: one HTML page that needs nothing else, and its figures as PNG beside it.

It is written whole or not at all, and never over anything that is not a report.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from dualpath.compare.result import Result
from dualpath.errors import UserError

PAGE = "index.html"
BUILDING = ".dualpath-report-"
FIGURES = ("ratios.png", "throughput.png", "latency.png", "latency-at-rate.png", "distribution.png", "timeline.png")
GENERATOR = "dualpath compare"


def check(directory: Path) -> None:
    """Refuse, before anything is measured, a folder that a report cannot be written to.

    Raises:
        UserError: it is a file, has something in it that is not an earlier report, or cannot be written to; or a
            package that draws the report is missing.
    """
    try:
        if os.path.lexists(directory) and not directory.is_dir():
            found = "a file" if directory.exists() else "a link to nothing"
            raise UserError(f"{directory}: expected a folder for the report, got {found}. Name another with --report.")
        if directory.is_dir() and not _is_report(directory):
            raise UserError(
                f"{directory}: expected an empty folder or an earlier report, got other files. "
                "Name another with --report."
            )
        absolute = directory.absolute()
        nearest = next(path for path in (absolute, *absolute.parents) if os.path.lexists(path))
        with TemporaryDirectory(prefix=BUILDING, dir=nearest):
            pass
    except OSError as error:
        raise _unwritable(directory, error) from None


def write(result: Result, directory: Path) -> Path:
    """Write the page and its figures; return the page's path.

    A new folder appears whole. In an existing one each file is replaced whole, the page last. Raises as `check` does.
    """
    check(directory)
    from dualpath.compare.report.page import build_page

    new = not directory.exists()
    try:
        parent = directory.parent if new else directory
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=BUILDING, dir=parent) as temporary:
            built = Path(temporary) / "report"
            built.mkdir()
            build_page(result, built / PAGE, GENERATOR)
            if new:
                built.rename(directory)
            else:
                _replace(built, directory)
    except OSError as error:
        raise _unwritable(directory, error) from None
    return directory / PAGE


def _replace(built: Path, directory: Path) -> None:
    names = sorted((path.name for path in built.iterdir()), key=lambda name: (name == PAGE, name))
    for name in names:
        os.replace(built / name, directory / name)
    for name in set(FIGURES).difference(names):  # of the earlier report
        (directory / name).unlink(missing_ok=True)


def _is_report(directory: Path) -> bool:
    """Whether nothing is in a folder, or nothing but a report."""
    names = {path.name for path in directory.iterdir() if not path.name.startswith(BUILDING)}
    if not names:
        return True
    if PAGE not in names or names.difference(FIGURES, {PAGE}):
        return False
    with (directory / PAGE).open(encoding="utf-8", errors="replace") as page:
        return f'content="{GENERATOR}"' in page.read(2000)


def _unwritable(directory: Path, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    return UserError(
        f"{directory}: expected a folder to write the report to, got: {reason}. Name another with --report."
    )
