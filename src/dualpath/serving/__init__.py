"""Find, start, watch and stop a Triton server."""

from dualpath.serving.server import TritonServer
from dualpath.serving.triton_process import ServerFailed, StartFailed, StartProgress

__all__ = ["ServerFailed", "StartFailed", "StartProgress", "TritonServer"]
