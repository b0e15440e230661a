"""Watch a Triton server: replace what is dead or hangs, and tell the truth about it."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from dualpath.readability.contract import SCORERS
from dualpath.serving import access
from dualpath.serving.server import TritonServer
from dualpath.serving.watch.endpoint import endpoint
from dualpath.serving.watch.plant import Plant
from dualpath.serving.watch.watchdog import Watchdog

HEALTH_PORT = "--health-port"


@contextmanager
def watched(triton: TritonServer, report: Callable[[str], None]) -> Iterator[tuple[Watchdog, str]]:
    """Give a watchdog of a started server, and the address of its health endpoint; `step` it several times a second.

    Args:
        triton: started with `HEALTH_PORT` among its `more_ports`.
        report: gets one line for each fault, each mending and each wait for another command.
    """
    port = triton.more_ports[HEALTH_PORT]
    url = f"http://{'127.0.0.1' if triton.address == '0.0.0.0' else triton.address}:{port}"
    grpc_port = int(triton.grpc_url.rpartition(":")[2])
    with closing(Plant(triton, report)) as plant:
        scorers = tuple(model.name for model in SCORERS if model.name in plant.models)
        watchdog = Watchdog(plant, scorers, time.monotonic, report)
        with (
            endpoint(watchdog, triton.address, port),
            closing(access.OwnFile(access.default_file(grpc_port, "health"), url)),
        ):
            yield watchdog, url
