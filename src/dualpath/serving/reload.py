"""Let a running server change from one release to another, without a request that meets parts of both.

What Triton 2.51 does, by its source and by tests/server/test_reload.py:

- A load with a config keeps the versions in memory that it names too, if neither their files (by the later of mtime and
  ctime) nor anything in the config but `version_policy` and `instance_group` has changed. Where a version does not
  load, those before go on.
- Of a load's versions all become ready in one moment, and those that it leaves out are released in the same. A released
  version finishes its requests, and stays UNLOADING in the index until it has.
- A request to an ensemble takes hold of every step's model as it begins, and keeps them to its end.
- A load of an ensemble also loads each model of its steps that is newer on disk than when it was last loaded, by the
  config on disk; a load with a config counts as one of now. And it takes the ensemble down where a version that a step
  names is not ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability import releases
from dualpath.serving import access
from dualpath.serving.log import one_line
from dualpath.serving.preflight import check_undamaged
from dualpath.serving.repository import complete_release

with needs("cli"):
    import tritonclient.grpc as grpcclient
    from google.protobuf import json_format
    from tritonclient.utils import InferenceServerException

POLL_S = 0.1

Report = Callable[[str], None]
Versions = set[int]


class ReloadFailed(Exception):
    """The server did not take the release. The message says why in one line, and what is served now."""


@dataclass(frozen=True)
class Reloaded:
    """What a reload did.

    Attributes:
        release: the release that is served now.
        before: those that were.
    """

    release: int
    before: tuple[int, ...]


def reload_release(
    client: grpcclient.InferenceServerClient,
    model_repository: Path,
    *,
    model: str | None = None,
    drain_timeout_s: float = 120,
    report: Report = lambda line: None,
) -> Reloaded | None:
    """Let the server serve the newest release, or return None where it does.

    Args:
        client: of a server with explicit model control, which loads from this model repository.
        model: the only model that may change.
        drain_timeout_s: how long the requests that began before may take to end.
        report: gets a line before each step.
    Raises:
        UserError: there is no such model, or it alone would not fit to the others, or nothing can be loaded there.
        ReloadFailed: a model did not load, or the requests before did not end.
    """
    with releases.locked(model_repository):
        complete_release(model_repository)
        server = _Server(client)
        members = releases.members(model_repository)
        switch = _Switch(server, [member.name for member in members], report)
        release = releases.newest_release(model_repository)
        if model is not None and model not in server.ready():
            raise UserError(f"{model}: expected a model that is served, one of {', '.join(sorted(server.ready()))}.")
        _check_not_replaced(model_repository, switch)
        for member in members:
            if release not in switch.ready[member.name]:
                check_undamaged(member / str(release))
        if switch.serves_only(release):
            if model is not None and model not in releases.CHILDREN:
                report(f"{model}: loading it, if its files have changed")
                server.load(model)
            return None
        if model is not None:
            _check_alone(model, switch, members, release)
        return switch.to(release, drain_timeout_s)


def _check_not_replaced(model_repository: Path, switch: _Switch) -> None:
    """Refuse to touch a version whose files are others than the server has loaded: Triton would load them at once."""
    for name, versions in switch.ready.items():
        for version in sorted(versions):
            if (model_repository / name / str(version) / releases.REPLACED).exists():
                raise UserError(
                    f"{name}: version {version} was replaced since a server started on it, and would be loaded without "
                    "what belongs to it. Restart `dualpath serve`; a new version needs no restart."
                )


def _check_alone(model: str, switch: _Switch, members: list[Path], release: int) -> None:
    """Refuse to change one model where the release changes others, or where they would not fit."""
    if model not in [*releases.CHILDREN, *switch.readers, *switch.ensembles]:
        raise UserError(f"{model}: release {release} is not served yet. Run `dualpath reload` first.")
    changed = [
        member.name
        for member in members
        if member.name in releases.CHILDREN
        and not all(_same(member / str(version), member / str(release)) for version in switch.ready[member.name])
    ]
    if changed != [model]:
        raise UserError(
            f"{model} alone would not fit: release {release} changes {' and '.join(changed)}. "
            "Run `dualpath reload` without a model."
        )


def _same(one: Path, other: Path) -> bool:
    """Tell whether one version is a link to the other, or both are to a third."""
    return one.exists() and one.samefile(other)


class _Switch:
    """The way from what a server serves to a release."""

    def __init__(self, server: _Server, members: list[str], report: Report) -> None:
        self._server, self._report = server, report
        ready = server.ready()
        if missing := [name for name in members if name not in ready]:
            raise UserError(f"{missing[0]}: expected a version that is ready, found none. See `dualpath models`.")
        self.ready = {name: ready[name] for name in members}
        self._children = [name for name in members if name in releases.CHILDREN]
        self.readers = [name for name in members if name not in releases.CHILDREN]
        self.ensembles = [name for name in ready if self._members_of(name)]

    def serves_only(self, release: int) -> bool:
        """Tell whether all members are served in this version and no other."""
        return all(versions == {release} for versions in self.ready.values())

    def to(self, release: int, drain_timeout_s: float) -> Reloaded:
        """Serve the release: add it from below, change over, and take away what was before from above."""
        before = set.union(*self.ready.values()) - {release}
        if common := set.intersection(*self.ready.values()) - {release}:
            self._pin(max(common), only_where_open=True)
        try:
            for name in self._children + self.readers:
                self._report(f"{name}: loading version {release}")
                self._allow(name, self.ready[name] | {release})
            self._report(f"{', '.join(self.ensembles) or 'no ensemble'}: changing over")
            self._pin(release)
        except ReloadFailed as error:
            if common:
                self._pin(max(common))
            self._take_back()
            raise ReloadFailed(
                f"{error} Nothing has changed: {_said(before)} goes on. Replace release {release} before a restart."
            ) from None
        self._report(f"{', '.join(self.readers)}: finishing the requests of {_said(before)}")
        for name in self.readers:
            self._allow(name, {release})
        self._drain(release, before, drain_timeout_s)
        for name in self._children:
            self._report(f"{name}: leaving only version {release}")
            self._allow(name, {release})
        return Reloaded(release, tuple(sorted(before)))

    def _take_back(self) -> None:
        for name in self.readers + self._children:
            self._server.load(name, self._server.config(name, self.ready[name]))

    def _allow(self, name: str, versions: Versions) -> None:
        self._server.load(name, self._server.config(name, versions))
        if missing := versions - self._server.ready()[name]:
            raise ReloadFailed(
                f"{name}: expected version {min(missing)} on the server, found none. Is --model-repository its folder?"
            )

    def _pin(self, release: int, only_where_open: bool = False) -> None:
        """Let the ensembles' steps name this version of every member."""
        for name in self.ensembles:
            config = self._server.config(name)
            steps = [step for step in config.ensemble_scheduling.step if step.model_name in self.ready]
            if only_where_open and all(step.model_version != -1 for step in steps):
                continue
            for step in steps:
                step.model_version = release
            for member in self._members_of(name):  # as they are, but not as older than their files
                self._allow(member, self._server.ready()[member])
            self._server.load(name, config)

    def _members_of(self, name: str) -> list[str]:
        steps = self._server.config(name).ensemble_scheduling.step
        return list(dict.fromkeys(step.model_name for step in steps if step.model_name in self.ready))

    def _drain(self, release: int, before: Versions, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while busy := [name for name, versions in self._server.alive(self.readers) if versions - {release}]:
            if time.monotonic() > deadline:
                raise ReloadFailed(
                    f"{', '.join(busy)}: requests of {_said(before)} have not ended within {timeout_s:g} s; release "
                    f"{release} serves all others. Run `dualpath reload` again to finish."
                )
            time.sleep(POLL_S)


def _said(numbers: Iterable[int]) -> str:
    return f"release {' and '.join(map(str, sorted(numbers)))}"


class _Server:
    """What a reload asks of a server."""

    def __init__(self, client: grpcclient.InferenceServerClient) -> None:
        self._client = client

    def ready(self) -> dict[str, Versions]:
        """Return the versions that are ready, of each model that has one."""
        return self._versions("READY")

    def alive(self, names: list[str]) -> Iterator[tuple[str, Versions]]:
        """Give the versions that are not gone, of each of these models."""
        versions = self._versions("READY", "LOADING", "UNLOADING")
        return ((name, versions.get(name, set())) for name in names)

    def config(self, name: str, versions: Versions | None = None) -> Any:
        """Return a model's config as protobuf, with `versions` as its policy."""
        with _failing(name):
            config = self._client.get_model_config(name).config
        config.ClearField("runtime")  # Triton's own: with it no version would stay in memory
        if versions is not None:
            config.version_policy.specific.versions[:] = sorted(versions)
        return config

    def load(self, name: str, config: Any = None) -> None:
        """Load a model by a config, or by the one on disk."""
        text = json_format.MessageToJson(config, preserving_proto_field_name=True) if config is not None else None
        with _failing(name):
            self._client.load_model(name, config=text)

    def _versions(self, *states: str) -> dict[str, Versions]:
        with _failing("model repository"):
            index = self._client.get_model_repository_index().models
        found: dict[str, Versions] = {}
        for entry in index:
            if entry.state in states:
                found.setdefault(entry.name, set()).add(int(entry.version))
        return found


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        reason = str(error.message()).strip()
        if access.REFUSED in reason:
            raise UserError(access.NO_KEY) from None
        if "explicit model load" in reason:
            raise UserError(
                "expected a server with explicit model control, as `dualpath serve` starts it, found one that loads "
                "models by itself or not at all."
            ) from None
        raise ReloadFailed(f"{what}: {one_line(reason).rstrip(';. ')}.") from None
