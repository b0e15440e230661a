"""Let a running server change from one release to another, without a request that meets parts of both.

What Triton 2.51 does, by its source and by tests/server/test_reload.py:

- A load with a config keeps the versions in memory that it names too, if neither their files (by the later of mtime and
  ctime) nor anything in the config but `version_policy` and `instance_group` has changed. If a version does not load,
  those before go on.
- Of a load's versions all become ready in one moment, and those that it leaves out are released in the same. A released
  version finishes its requests, and stays UNLOADING in the index until it has.
- A request to an ensemble takes hold of every step's model as it begins, and keeps them to its end.
- A load goes on if its sender is killed. Loads of related models wait for it, and Triton takes them in no fixed order.
- A load of an ensemble also loads each model of its steps that is newer on disk than when it was last loaded, by the
  config on disk; a load with a config counts as one of now. And it takes the ensemble down if a version that a step
  names is not ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository import folders, releases
from dualpath.serving.loader import Loader, ReloadFailed, Versions, left_after
from dualpath.serving.preflight import check_code, check_undamaged

with needs("cli"):
    import tritonclient.grpc as grpcclient

LOAD_S = 120.0
"""How long a load may take that goes on when a reload begins, or that comes after one of its own."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Reloaded:
    """What a reload did.

    Attributes:
        release: the release that is served now; None if the repository has none.
        before: those that were served, if that has changed.
        loaded: the model whose code and config were loaded as they are now, if no release has changed.
    """

    release: int | None
    before: tuple[int, ...] = ()
    loaded: str | None = None


def reload_release(
    client: grpcclient.InferenceServerClient,
    model_repository: Path,
    *,
    model: str | None = None,
    to: int | None = None,
    drain_timeout_s: float = 120,
    report: Report = lambda line: None,
) -> Reloaded:
    """Let the server serve a release.

    Args:
        client: of a server with explicit model control, which loads from this model repository.
        model: the only model that may change. If the release is served, its code is loaded again, and its config too if
            that release is the newest.
        to: the release; None is the newest.
        drain_timeout_s: how long the requests that began before may take to end.
        report: gets a line before each step, and if another command has to end first.
    Raises:
        UserError: there is no such model or release, or something is missing, or the model alone would not fit to the
            others. Nothing has changed.
        ReloadFailed: a model did not load, another load did not end, or the requests before did not.
    """
    with releases.locked(model_repository, report):
        releases.complete(model_repository)
        release = releases.chosen(model_repository, to)
        server = Loader(client)
        ready = server.settled([member.name for member in releases.members(model_repository)], LOAD_S, report)
        if model is not None and model not in ready:
            raise UserError(
                f"{model}: expected a model that is served, got none. Name one of {', '.join(sorted(ready))}."
            )
        _check_served_folders(server, model_repository)
        if release is None:
            return _load_again(server, model_repository, model, None, report)
        switch = _Switch(server, model_repository, release, report)
        if switch.is_done():
            if revived := switch.revive():
                return Reloaded(release, loaded=revived)
            return _load_again(server, model_repository, model, switch, report)
        if model is not None:
            _check_alone(model, switch, model_repository)
        return switch.run(drain_timeout_s)


def _check_served_folders(server: Loader, model_repository: Path) -> None:
    """Refuse to begin if a version that is served has lost its folder: Triton would drop it at the first load."""
    for name, versions in server.ready().items():
        for version in sorted(versions):
            folder = model_repository / name / str(version)
            if folder.parent.is_dir() and not folder.is_dir():
                raise UserError(
                    f"{name}: expected the folder of version {version}, which is served, at {folder}, got none. "
                    "Restore it, or restart `dualpath serve`."
                )


def _load_again(
    server: Loader, model_repository: Path, model: str | None, switch: _Switch | None, report: Report
) -> Reloaded:
    """Load a model's code and config as they are now, in the version that is served; artifacts stay."""
    release = switch.release if switch else None
    if model is None:
        return Reloaded(release)
    served, newest = server.ready()[model], releases.newest_release(model_repository)
    by_disk = not switch or model not in switch.ready or served == {newest}
    if switch and model in switch.children and not by_disk:
        raise UserError(
            f"{model}: expected version {newest} alone to be served, which Triton takes by the config on disk, "
            f"got {' and '.join(map(str, sorted(served)))}. Restart `dualpath serve`."
        )
    folder = model_repository / model
    if folder.is_dir():
        check_code(folder, max(served))
    report(f"{model}: loading its code and config")
    # By the config on disk Triton would take the newest version.
    server.load(model, None if by_disk else server.config(model, served))
    if switch and model in switch.ensembles:
        switch.point(switch.release)
    return Reloaded(release, loaded=model)


def _check_alone(model: str, switch: _Switch, model_repository: Path) -> None:
    """Refuse to change one model if the release changes others, or if they would not fit."""
    release = switch.release
    if model not in [*switch.children, *switch.readers, *switch.ensembles]:
        raise UserError(f"{model}: expected release {release} to be served, got others. Run `dualpath reload` first.")
    changed = []
    for name in switch.children:  # a version that is a link to another, or both to a third, is no change
        served = [model_repository / name / str(version) for version in switch.ready[name]]
        if not all(folder.exists() and folder.samefile(folder.with_name(str(release))) for folder in served):
            changed.append(name)
    if changed != [model]:
        raise UserError(
            f"{model}: expected a release that changes this model alone, got release {release}, which changes "
            f"{' and '.join(changed)}. Run `dualpath reload` without a model."
        )


class _Switch:
    """The way from what a server serves to a release."""

    def __init__(self, server: Loader, model_repository: Path, release: int, report: Report) -> None:
        self._server, self._report, self.release = server, report, release
        ready = server.ready()
        members = releases.members(model_repository)
        for member in members:
            check_code(member, release)
            if release not in ready.get(member.name, ()):
                check_undamaged(member / str(release))
            if member.name not in ready:
                raise UserError(
                    f"{member.name}: expected a version that is ready, got none. See `dualpath models`; "
                    "restart `dualpath serve`."
                )
        self.ready = {member.name: ready[member.name] for member in members}
        self.readers = list(releases.readers(model_repository))
        self.children = [name for name in self.ready if name not in self.readers]
        # What an ensemble's author wrote stands on disk: the server's own config names the release by number.
        steps = {model.name: releases.steps(model) for model in folders.models(model_repository)}
        follows = {name: {step.model_name for step in said if step.model_version == -1} for name, said in steps.items()}
        self._follows = {name: said & self.ready.keys() for name, said in follows.items() if said & self.ready.keys()}
        self._lost = [name for name in self._follows if name not in ready]
        self._follows = {name: said for name, said in self._follows.items() if name in ready}
        self.ensembles = list(self._follows)
        pinned = [step for name, said in steps.items() if name in ready for step in said if step.model_version != -1]
        self._stay = {
            name: {step.model_version for step in pinned if step.model_name == name} & versions
            for name, versions in self.ready.items()
        }

    def is_done(self) -> bool:
        """Tell if all members are served in this version, and in no other but those that ensembles name."""
        return all(versions == self._target(name) for name, versions in self.ready.items())

    def _target(self, name: str) -> Versions:
        return {self.release} | self._stay[name]

    def run(self, drain_timeout_s: float) -> Reloaded:
        """Serve the release: add it from below, change over, and take away what was before from above."""
        common = set.intersection(*self.ready.values()) - {self.release}
        before = set.union(*(self.ready[name] - self._target(name) for name in self.ready)) or common
        if common:
            self.point(max(common), only_if_open=True)
        try:
            for name in self.children + self.readers:
                self._report(f"{name}: loading version {self.release}")
                self._allow(name, self.ready[name] | {self.release})
            self._report(f"{', '.join(self.ensembles) or 'no ensemble'}: changing over")
            self.point(self.release)
        except ReloadFailed as error:
            if common:
                self.point(max(common))
            for name in self.readers + self.children:
                self._server.load(name, self._server.config(name, self.ready[name]))
            raise ReloadFailed(
                f"{error} Nothing has changed: {_said(before)} goes on. Publish another release before a restart, or "
                f"remove it: dualpath prune {self.release}."
            ) from None
        self._report(f"{', '.join(self.readers)}: finishing the requests of {_said(before)}")
        for name in self.readers:
            self._allow(name, self._target(name))
        if busy := left_after(self._finishing, drain_timeout_s):
            raise ReloadFailed(
                f"{', '.join(busy)}: expected the requests of {_said(before)} to end within {drain_timeout_s:g} s, got "
                f"some that have not. Release {self.release} serves all others; run `dualpath reload` again to finish."
            )
        for name in self.children:
            self._report(f"{name}: leaving only version {' and '.join(map(str, sorted(self._target(name))))}")
            self._allow(name, self._target(name))
        self.revive()
        return Reloaded(self.release, tuple(sorted(before)))

    def _finishing(self) -> list[str]:
        present = self._server.present()
        return [name for name in self.readers if present.get(name, set()) - self._target(name)]

    def revive(self) -> str | None:
        """Load the ensembles of members that are not served, and name them; None if all are."""
        for name in self._lost:
            self._report(f"{name}: loading it, since it is not served")
            self._server.load(name)
        return ", ".join(self._lost) or None

    def _allow(self, name: str, versions: Versions) -> None:
        for _ in range(2):  # a load that a killed command has left waiting may come after the first, and undo it
            self._server.load(name, self._server.config(name, versions))
            ready = self._server.settled([name], LOAD_S, self._report).get(name, set())
            if ready == versions:
                return
        if missing := versions - ready:
            raise ReloadFailed(
                f"{name}: expected version {min(missing)} on the server, got none. Name its --model-repository."
            )

    def point(self, release: int, only_if_open: bool = False) -> None:
        """Let the ensembles' steps name this version of every member that they follow."""
        for name, followed in self._follows.items():
            config = self._server.config(name)
            steps = [step for step in config.ensemble_scheduling.step if step.model_name in followed]
            if only_if_open and all(step.model_version != -1 for step in steps):
                continue
            for step in steps:
                step.model_version = release
            members = [step.model_name for step in config.ensemble_scheduling.step if step.model_name in self.ready]
            # As they are, but not as older than their files. Twice: a load of changed code writes Python's bytecode
            # beside it, and that file is newer than the load.
            for member in members * 2:
                self._allow(member, self._server.ready()[member])
            self._server.load(name, config)


def _said(numbers: Iterable[int]) -> str:
    return f"release {' and '.join(map(str, sorted(numbers)))}"
