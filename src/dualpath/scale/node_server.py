"""A server for a job, in a process of its own, which ends as soon as its standard input does: `-m ... REPOSITORY`.

The first line that it prints is JSON: the server's `url`, or the `error` because of which there is none.
"""

import json
import select
import sys
from contextlib import suppress
from pathlib import Path

from dualpath.errors import UserError
from dualpath.serving import ServerFailed, StartFailed, TritonServer
from dualpath.serving.watch import HEALTH_PORT, watched

LOOK_S = 0.25


def main(model_repository: Path) -> None:
    """Serve on free ports, watched, until standard input ends."""
    server = TritonServer(model_repository, http_port=0, grpc_port=0, metrics_port=0, more_ports={HEALTH_PORT: 0})
    try:
        try:
            server.start()
        except StartFailed:  # Triton 24.10 may abort while it starts on a busy machine
            server.restart()
        print(json.dumps({"url": server.grpc_url}), flush=True)
        # If the server cannot be restarted, the requests say so.
        with suppress(ServerFailed, UserError), watched(server, _log) as (watchdog, _):
            while not select.select([sys.stdin], [], [], LOOK_S)[0]:
                watchdog.step()
    except (ServerFailed, UserError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
    finally:
        server.stop()


def _log(line: str) -> None:
    """Write what the watchdog says to the log that Ray keeps of the worker."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
