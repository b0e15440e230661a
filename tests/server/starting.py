"""How a test starts a server of its own."""

from pathlib import Path
from typing import Any

from dualpath.serving.server import TritonServer


def start(repository: Path, **options: Any) -> TritonServer:
    """Return the embedded server on free ports, its log beside the model repository; it starts when it is entered."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    log = repository.parent / "triton.log"
    return TritonServer(repository, **{**ports, "server": "embedded", "log_path": log, **options})
