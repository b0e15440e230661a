"""A toolkit for Triton Python models: read requests, call children, route rows, answer each request exactly once.

It knows nothing of what the models compute. It can be imported anywhere: Triton's own module, which exists only inside
Triton's Python backend, is looked up when a model is initialised.
"""

from dualpath.bls.answer import answer_each, answer_merged
from dualpath.bls.batched import BatchedChild
from dualpath.bls.calls import Retry
from dualpath.bls.child import Child
from dualpath.bls.config import ModelConfig, Setting
from dualpath.bls.errors import (
    BadParameter,
    CallerGone,
    ChildError,
    ChildFailed,
    ChildLate,
    ChildUnavailable,
    ConfigError,
)
from dualpath.bls.metrics import Metrics
from dualpath.bls.pipeline import Pipeline
from dualpath.bls.request import Request, current_request
from dualpath.bls.rows import in_slices, route, together, tolerate
from dualpath.bls.tensors import Array, Arrays, Library

__all__ = [
    "Array",
    "Arrays",
    "BadParameter",
    "BatchedChild",
    "CallerGone",
    "Child",
    "ChildError",
    "ChildFailed",
    "ChildLate",
    "ChildUnavailable",
    "ConfigError",
    "Library",
    "Metrics",
    "ModelConfig",
    "Pipeline",
    "Request",
    "Retry",
    "Setting",
    "answer_each",
    "answer_merged",
    "current_request",
    "in_slices",
    "route",
    "together",
    "tolerate",
]
