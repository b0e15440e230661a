"""Unit tests see a fake of the module that exists only inside Triton's Python backend."""

import sys

import fake_triton

sys.modules["triton_python_backend_utils"] = fake_triton
