"""Configs that a release of Triton answers wrongly, refused before it starts. docs/operate.md has the other faults."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dualpath.errors import UserError
from dualpath.repository import configs
from dualpath.serving.installation import Installation

Release = tuple[int, int]

EMBEDDED: Release = (24, 10)
"""The release of nvidia-pytriton 0.7.0."""
QUEUE_MENDED: Release = (26, 2)
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
"""How NVIDIA's container names its release."""


def release_of(installation: Installation) -> Release | None:
    """Return a server's release, such as (24, 10); None if it does not say."""
    if installation.embedded:
        return EMBEDDED
    named = re.match(r"(\d\d)\.(\d\d)", os.environ.get(RELEASE_VARIABLE, ""))
    return (int(named[1]), int(named[2])) if named else None


def check_configs(models: list[Path], config_name: str | None, release: Release | None) -> None:
    """Refuse a config that this release answers wrongly; of an unknown release, what every known one does.

    Raises:
        UserError: the message gives the reason, and the release that mends it.
    """
    read = {model.name: configs.read(model, config_name) for model in models}
    steps = {step.model_name: name for name, config in read.items() for step in config.ensemble_scheduling.step}
    for name, config in read.items():
        if config.response_cache.enable:
            raise UserError(
                f"{name}: expected no response_cache, got it enabled. Triton's cache does not tell requests apart by "
                "their parameters, and answers a request that failed before as a success without outputs; no release "
                "is known to mend it. Remove response_cache, or cache in front of the server."
            )
        batching = config.dynamic_batching
        policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
        bound = max(policy.max_queue_size for policy in policies)
        if name in steps and bound and release is not None and release < QUEUE_MENDED:
            raise UserError(
                f"{name}: expected no max_queue_size, got {bound} on a step of {steps[name]}. In Triton "
                f"{release[0]}.{release[1]:02} an ensemble hangs for ever once a step's queue is full; 26.02 mends it. "
                "Remove max_queue_size, or bound the requests in front of the server."
            )
