"""Find, start, watch and stop a Triton server."""

from dualpath.serving.server import Progress, ServerFailed, StartFailed, TritonServer

__all__ = ["Progress", "ServerFailed", "StartFailed", "TritonServer"]
