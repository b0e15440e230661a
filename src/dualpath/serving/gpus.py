"""What a GPU needs beside it on this machine, looked up without starting CUDA and without importing torch or RAPIDS."""

import ctypes
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

RAPIDS = ("cudf", "cupy")
"""What the Python models import on a GPU."""
FORESTS = ("nvforest", "cuml")
"""What the stand-in for `fil` computes with on a GPU: the first that is installed."""
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Missing:
    """What something needs and does not find: `expected` and `got`, in words, and how to get it, a sentence."""

    expected: str
    got: str
    get: str

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got}. {self.get}."


def gpu_visible() -> bool:
    """Say whether an NVIDIA device is there; /dev/dxg is how WSL shows one."""
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def cards() -> list[str]:
    """Name the GPUs, each with its memory and driver, by nvidia-smi; empty without it."""
    if not gpu_visible() or shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False)
    return said.stdout.strip().splitlines() if said.returncode == 0 else []


def torch_build() -> tuple[str, str | None] | None:
    """Return torch's version and that of its CUDA, or None for that of a build for CPUs; None if there is no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    version, cuda = (re.search(rf"^{name}\b.*?= *'([^']+)'", text, re.MULTILINE) for name in ("__version__", "cuda"))
    return version[1] if version else "unknown", cuda[1] if cuda else None


def no_gpu() -> Missing | None:
    """Say that there is no GPU; None if there is one."""
    if gpu_visible():
        return None
    return Missing("a GPU", "no /dev/nvidia0", "Use a machine with an NVIDIA GPU and its driver")


def no_driver_library() -> Missing | None:
    """Say that Triton will not find the driver's library; None if it will.

    Release 24.10 looks for `libcuda.so`, not for `libcuda.so.1`, and without it takes every tensor through the host.
    """
    try:
        ctypes.CDLL("libcuda.so")
    except OSError:
        return Missing(
            "libcuda.so, the driver's library",
            "no such library",
            "Install the NVIDIA driver; if only libcuda.so.1 is there, link libcuda.so to it",
        )
    return None


def no_cuda_in_torch() -> Missing | None:
    """Say that torch cannot compute on a GPU; None if it can."""
    build = torch_build()
    if build and build[1]:
        return None
    return Missing(
        "torch with CUDA",
        f"torch {build[0]}" if build else "no torch",
        "Run `pip install --force-reinstall torch`" if build else "Run `pip install 'dualpath[models]'`",
    )


def no_rapids() -> Missing | None:
    """Say that cuDF or CuPy is not installed; None if both are."""
    lacking = not_installed(*RAPIDS)
    return Missing("RAPIDS", f"no {' and no '.join(lacking)}", "Run `pip install 'dualpath[gpu]'`") if lacking else None


def not_installed(*packages: str) -> list[str]:
    """Name the packages that cannot be imported, without importing the others."""
    return [package for package in packages if importlib.util.find_spec(package) is None]
