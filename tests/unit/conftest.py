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


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder in which this test's converted models are kept."""
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def saved(tmp_path):
    """Saves a module as TorchScript and gives its path."""
    import torch

    def save(module):
        with torch.no_grad():
            torch.jit.save(torch.jit.freeze(torch.jit.script(module.eval())), tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return save
