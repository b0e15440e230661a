"""The public fake of Triton, with a request that asks for the output `y`."""

from dualpath.bls.testing import backend
from dualpath.bls.testing.backend import *  # noqa: F403
from dualpath.bls.testing.backend import reset  # noqa: F401
from dualpath.bls.testing.received import ReceivedRequest as _ReceivedRequest

LOGGED, CHILDREN, CALLS, METRICS = backend.LOGGED, backend.CHILDREN, backend.CALLS, backend.METRICS


class ReceivedRequest(_ReceivedRequest):
    def __init__(self, inputs, parameters=None, timeout_us=0, trace=None, id="", outputs=("y",)):
        super().__init__(inputs, parameters, timeout_us, trace, id, outputs)


def received(**arrays):
    """A request with these inputs, as `execute` receives it."""
    return ReceivedRequest(arrays)
