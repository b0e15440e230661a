"""Unit tests see a fake of the module that exists only inside Triton's Python backend."""

import sys

import fake_triton
import pytest

sys.modules["triton_python_backend_utils"] = fake_triton


@pytest.fixture(autouse=True)
def fresh_fake():
    fake_triton.reset()
