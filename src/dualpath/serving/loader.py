"""What is loaded on a running server, and how to load more, by its repository API."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository import configs, releases
from dualpath.serving import access
from dualpath.serving.log import one_line

with needs("cli"):
    import tritonclient.grpc as grpcclient
    from google.protobuf import json_format
    from tritonclient.utils import InferenceServerException

_POLL_S = 0.05

T = TypeVar("T")
Versions = set[int]


class ReloadFailed(Exception):
    """The server did not load what it was told to. The message says why in one line, and what is served now."""


class Loader:
    """A server's repository API."""

    def __init__(self, client: grpcclient.InferenceServerClient) -> None:
        self._client = client

    def ready(self) -> dict[str, Versions]:
        """Return the versions that are ready, of each model that has one."""
        return versions_in(self._index(), "READY")

    def present(self) -> dict[str, Versions]:
        """Return the versions that are not gone, of each model that has one."""
        return versions_in(self._index(), "READY", "LOADING", "UNLOADING")

    def settled(self, names: Collection[str], timeout_s: float, report: Callable[[str], None]) -> dict[str, Versions]:
        """Wait until none of these models is being loaded, and return the versions that are ready, of each model.

        Triton finishes a load whose sender was killed. It shows those of versions that were not ready before.

        Args:
            report: gets a line if there is something to wait for.
        Raises:
            ReloadFailed: a load takes longer than `timeout_s`.
        """
        deadline, before = time.monotonic() + timeout_s, ""
        while True:
            index = self._index()
            loading = ", ".join(sorted(versions_in(index, "LOADING").keys() & set(names)))
            if not loading:
                return versions_in(index, "READY")
            if loading != before:
                report(f"{loading}: waiting for a load that is under way")
                before = loading
            if time.monotonic() > deadline:
                raise ReloadFailed(
                    f"{loading}: expected the load under way to end within {timeout_s:g} s, got one that goes on. "
                    "Run `dualpath reload` again when it has ended."
                )
            time.sleep(_POLL_S)

    def await_unloaded(self, timeout_s: float, report: Callable[[str], None]) -> None:
        """Wait until no version is being unloaded, but not for longer."""

        def unloading() -> str:
            return ", ".join(sorted(versions_in(self._index(), "UNLOADING")))

        if names := unloading():
            report(f"{names}: waiting until a version is unloaded")
            left_after(unloading, timeout_s)

    def config(self, name: str, versions: Versions | None = None) -> Any:
        """Return a model's config as protobuf, with `versions` as its policy."""
        with _failing(name, "describe"):
            config = self._client.get_model_config(name).config
        return loadable(config, versions)

    def load(self, name: str, config: Any = None) -> None:
        """Load a model by a config, or by the one on disk."""
        with _failing(name, "load"):
            self._client.load_model(name, config=None if config is None else as_json(config))

    def _index(self) -> Any:
        with _failing("model repository", "list"):
            return self._client.get_model_repository_index().models


@dataclass(frozen=True)
class Pins:
    """The versions that ensembles name, beside those that Triton takes by itself: to load once a server has started.

    By default Triton serves a model's newest version, and does not start if an ensemble's step names another. So those
    ensembles are left out at first and loaded once all versions are there.

    Attributes:
        versions: by model, all versions to serve, if ensembles name others than Triton takes by itself.
        ensembles: that name them, or contain such an ensemble, in the order to load them.
    """

    versions: dict[str, set[int]]
    ensembles: list[str]

    @classmethod
    def of(cls, models: list[Path], config_name: str | None = None) -> Pins:
        """Find them in the configs on disk.

        Raises:
            UserError: a step names a version that is not there.
        """
        steps = {model.name: releases.steps(model) for model in models}
        taken = {model.name: configs.served_versions(model, config_name) for model in models}
        missing: dict[str, set[int]] = {}
        for ensemble, said in steps.items():
            for step in said:
                if step.model_version != -1 and step.model_version not in taken.get(step.model_name, ()):
                    folder = models[0].parent / step.model_name / str(step.model_version)
                    if not folder.is_dir():
                        raise UserError(
                            f"{ensemble}: expected version {step.model_version} of {step.model_name}, which a step "
                            f"names, at {folder}, got none. Restore it, or let the step name -1, the newest."
                        )
                    missing.setdefault(step.model_name, set()).add(step.model_version)
        late: list[str] = []
        while found := [
            ensemble
            for ensemble, said in steps.items()
            if ensemble not in late
            and any(step.model_version in missing.get(step.model_name, ()) or step.model_name in late for step in said)
        ]:
            late += found
        return cls({name: versions | taken[name] for name, versions in missing.items()}, late)

    def load(self, client: grpcclient.InferenceServerClient) -> None:
        """Load them into a server that has started without the ensembles.

        Raises:
            ReloadFailed: one did not load.
        """
        loader = Loader(client)
        for name, versions in self.versions.items():
            loader.load(name, loader.config(name, versions))
        for name in self.ensembles:
            loader.load(name)


def left_after(left: Callable[[], T], within_s: float) -> T:
    """Wait until nothing is left, but not for longer; return what is left then."""
    deadline = time.monotonic() + within_s
    while (found := left()) and time.monotonic() <= deadline:
        time.sleep(_POLL_S)
    return found


def loadable(config: Any, versions: Versions | None) -> Any:
    """Make a served model's config one to load it by again, with `versions` as its policy."""
    config.ClearField("runtime")  # Triton's own: with it no version would stay in memory
    if versions is not None:
        config.version_policy.specific.versions[:] = sorted(versions)
    return config


def as_json(config: Any) -> str:
    """Return a config as Triton's load takes it."""
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def versions_in(index: Any, *states: str) -> dict[str, Versions]:
    """Return the versions that an index has in one of these states, of each model that has one."""
    found: dict[str, Versions] = {}
    for entry in index:
        if entry.state in states:
            found.setdefault(entry.name, set()).add(int(entry.version))
    return found


@contextmanager
def _failing(what: str, to_do: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        reason = str(error.message()).strip()
        if access.REFUSED in reason:
            raise UserError(access.NO_KEY) from None
        if "explicit model load" in reason:
            raise UserError(
                "--url: expected a server with explicit model control, got one that loads "
                "models by itself or not at all. Start it with `dualpath serve`."
            ) from None
        raise ReloadFailed(
            f"{what}: expected Triton to {to_do} it, got: {one_line(reason).rstrip(';. ')}. See its log."
        ) from None
