"""The machine and the versions that figures hold for."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dualpath import __version__


def machine_facts() -> dict[str, str]:
    """Describe this machine and this process."""
    import psutil

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(available),
        "instructions": ", ".join(
            flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in _cpuinfo("flags").split()
        ),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "dualpath": __version__,
    }


def _cpuinfo(name: str) -> str:
    file = Path("/proc/cpuinfo")  # Linux's
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
