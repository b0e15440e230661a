"""The machine and the versions that figures hold for."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dualpath import __version__


def machine_facts() -> dict[str, str]:
    """Describe this machine and this process."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "instructions": ", ".join(
            flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in _cpuinfo("flags").split()
        ),
        "memory": f"{gib:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "dualpath": __version__,
    }


def _cpuinfo(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
