"""Serve the versions that ensembles name, beside those that Triton takes by itself.

By default Triton serves a model's newest version, and does not start if an ensemble's step names another. So those
ensembles are left out at first and loaded once all versions are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository import configs, releases
from dualpath.serving.loader import Loader

with needs("cli"):
    import tritonclient.grpc as grpcclient


@dataclass(frozen=True)
class Pins:
    """What to load once a server has started.

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
