"""The public fake of Triton, by a shorter name."""

from dualpath.bls.testing import backend
from dualpath.bls.testing.backend import *  # noqa: F403
from dualpath.bls.testing.backend import reset  # noqa: F401
from dualpath.bls.testing.received import ReceivedRequest

LOGGED, CHILDREN, CALLS, METRICS = backend.LOGGED, backend.CHILDREN, backend.CALLS, backend.METRICS


def received(**arrays):
    """A request with these inputs, as `execute` receives it."""
    return ReceivedRequest(arrays)
