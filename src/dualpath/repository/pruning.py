"""Remove releases that nothing needs."""

import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from dualpath.errors import UserError
from dualpath.repository import folders, releases
from dualpath.repository.facts import is_published


def prune(
    model_repository: Path,
    served: Callable[[], Mapping[str, Set[int]]],
    only: Sequence[int] = (),
    dry_run: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> dict[Path, int | None]:
    """Remove the versions of all releases but the newest and those that a server or an ensemble's step needs.

    Only what was published goes: version folders with facts, and links. A folder that a link of a version that stays
    leads to stays too.

    Args:
        served: asks a server for its versions, by model.
        only: remove these releases alone, the newest perhaps among them.
        report: gets a line if another command has to end first.
    Returns:
        The version folders, each with the bytes of its files; None for a link.
    Raises:
        UserError: one of `only` is needed, or is not there, or no release would be left.
    """
    with releases.locked(model_repository, report):
        members = releases.members(model_repository)
        there = {int(path.name) for model in members for path in folders.filled(model)}
        loaded = served()
        steps = [step for model in folders.models(model_repository) for step in releases.steps(model)]
        needed = {step.model_version for step in steps}.union(*(loaded.get(model.name, ()) for model in members))
        newest = max(there, default=0)
        for release in only:
            if release not in there:
                raise UserError(
                    f"release {release}: expected one of {_said(there)}, got another. See `dualpath models`."
                )
            if release in needed:
                raise UserError(
                    f"release {release}: expected one that nothing serves and no ensemble names, got one that is "
                    "needed. Change to another first: `dualpath reload --to RELEASE`."
                )
        whole = releases.releases(model_repository)
        goes = set(only) or there - needed - {newest, *whole[:1]}
        if only and not set(whole) - goes:
            raise UserError(f"release {_said(goes)}: expected another whole release to stay, got none. Keep one.")
        # Readers first: if this is killed, they miss a file rather than read that of another version.
        gone = {path: _size(path) for model in reversed(members) for path in _removable(model, goes)}
        for path in () if dry_run else gone:
            if path.is_symlink():
                path.unlink()
            else:
                aside = path.with_name(f"{releases.UNFINISHED}{path.name}")
                path.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
        return gone


def _removable(model: Path, goes: Set[int]) -> list[Path]:
    found = folders.filled(model)
    wanted = {path.resolve() for path in found if int(path.name) not in goes}
    published = [path for path in found if path.is_symlink() or is_published(path)]
    return [
        path for path in published if int(path.name) in goes and (path.is_symlink() or path.resolve() not in wanted)
    ]


def _size(version: Path) -> int | None:
    return None if version.is_symlink() else sum(file.stat().st_size for file in version.rglob("*") if file.is_file())


def _said(numbers: Set[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
