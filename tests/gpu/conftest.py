"""What these tests need; if it is missing they are skipped, and say what is."""

import importlib.util

import pytest

from dualpath.serving import gpus


def missing(*modules):
    return [module for module in modules if importlib.util.find_spec(module) is None]


@pytest.fixture(scope="session", autouse=True)
def gpu():
    if not gpus.gpu_visible():
        pytest.skip("needs an NVIDIA GPU, this machine shows none")


@pytest.fixture(scope="session")
def rapids(gpu):
    """The real RAPIDS."""
    if lacking := missing("cudf", "cupy"):
        pytest.skip(f"needs {' and '.join(lacking)}: pip install 'dualpath[gpu]'")
    from dualpath.readability.device import load_rapids

    return load_rapids()
