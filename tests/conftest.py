"""Markers by folder, and the fixtures that unit and server tests share."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from paths import REPOSITORY, ROOT

# A shell's background jobs ignore Ctrl-C, and so would what tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Threads of torch that have nothing to do would spin, on cores that other test processes need. Servers inherit this.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# How long an example takes is no test's business: the machine may be busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in ("server", "gpu", "browser"):
            item.add_marker(folder)


@pytest.fixture(scope="session")
def model_repository() -> Path:
    """The model repository, with its artifacts built."""
    missing = [path for path in ("bert-large/1/model.pt", "cuml/1/checkpoint.tl") if not (REPOSITORY / path).is_file()]
    if missing:
        pytest.fail(f"{missing[0]} is missing: run `dualpath build` (`make test` does)", pytrace=False)
    return REPOSITORY


@pytest.fixture(scope="session")
def reference(model_repository):
    """The in-process scorer, with as many threads as an instance of bert-large has."""
    from dualpath.readability.reference import Reference

    return Reference(model_repository, threads=1)
