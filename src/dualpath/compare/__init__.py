"""Measure and compare contenders: parity, load, and where the time goes.

from dualpath.compare import compare

result = compare("ensemble_all", "orchestrator", url="localhost:8001")   # in a notebook, a table
result.to_dict(), result.table(), result.failed
"""

from typing import TYPE_CHECKING, Any

from dualpath.extras import require

if TYPE_CHECKING:
    from dualpath.compare.bench_run import bench
    from dualpath.compare.comparison import compare
    from dualpath.compare.result import Result

require("compare", "aiohttp", "jinja2", "matplotlib", "prometheus_client", "psutil", "scipy", "tritonclient")

__all__ = ["Result", "bench", "compare"]

_HOMES = {"bench": "bench_run", "compare": "comparison", "Result": "result"}


def __getattr__(name: str) -> Any:
    """Import what takes long when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
