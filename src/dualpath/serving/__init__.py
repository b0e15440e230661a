"""Find, start, watch and stop a Triton server."""

from dualpath.serving.server import Progress, TritonServer
from dualpath.serving.triton_process import ServerFailed, StartFailed

__all__ = ["Progress", "ServerFailed", "StartFailed", "TritonServer"]
