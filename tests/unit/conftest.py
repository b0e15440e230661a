"""Unit tests see a fake of the module that exists only inside Triton's Python backend."""

import sys

import fake_triton
import pytest

sys.modules["triton_python_backend_utils"] = fake_triton


@pytest.fixture(autouse=True)
def fresh_fake():
    fake_triton.reset()


@pytest.fixture
def gated():
    """The child "child", whose calls wait until a test lets them through."""
    from bls_driver import Gated  # once the fake is there

    fake_triton.CHILDREN["child"] = child = Gated()
    return child
