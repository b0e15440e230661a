"""A toolkit for Triton Python models: read requests, call children, route rows, answer each request exactly once.

It knows nothing of what the models compute. It can be imported anywhere: Triton's own module, which exists only inside
Triton's Python backend, is looked up when a model is initialised.
"""

from dualpath.bls.answer import answer_each, answer_merged
from dualpath.bls.child import Child
from dualpath.bls.config import ConfigError, ModelConfig
from dualpath.bls.errors import BadParameter, CallerGone, ChildFailed, ChildLate, ChildUnavailable
from dualpath.bls.loop import Loop
from dualpath.bls.merge import MergingChild
from dualpath.bls.metrics import Metrics
from dualpath.bls.request import Request, Trace
from dualpath.bls.rows import excuse, in_slices, route, together

__all__ = [
    "BadParameter",
    "CallerGone",
    "Child",
    "ChildFailed",
    "ChildLate",
    "ChildUnavailable",
    "ConfigError",
    "Loop",
    "MergingChild",
    "Metrics",
    "ModelConfig",
    "Request",
    "Trace",
    "answer_each",
    "answer_merged",
    "excuse",
    "in_slices",
    "route",
    "together",
]
