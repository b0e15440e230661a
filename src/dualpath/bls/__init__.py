"""A toolkit for Triton Python models: read requests, call children, route rows, answer each request exactly once.

It knows nothing of what the models compute, and it alone imports `triton_python_backend_utils`, which exists only
inside Triton's Python backend. That module is still empty while a model.py is being imported, so nothing here touches
its contents before `initialize`.
"""

from dualpath.bls.answer import answer_each, answer_each_async, answer_merged
from dualpath.bls.child import Child, ChildFailed
from dualpath.bls.config import ConfigError, ModelConfig
from dualpath.bls.rows import scatter

__all__ = [
    "Child",
    "ChildFailed",
    "ConfigError",
    "ModelConfig",
    "answer_each",
    "answer_each_async",
    "answer_merged",
    "scatter",
]
