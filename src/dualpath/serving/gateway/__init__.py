"""A stock HAProxy in front of a server's HTTP port, which bounds what a request can cost and takes binary tensors only.

Open are health, metadata, configs, statistics and inference; all other paths of Triton are not there.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from dualpath.errors import UserError
from dualpath.serving import supervise

MOST_BYTES = 8 * 1024 * 1024
"""Of a request: 512 rows, the largest batch, have 16 kB each."""
START_S = 5.0
GRACE_S = 5

_FOLDER = Path(__file__).parent


@contextmanager
def gateway(address: str, port: int, http_url: str, log: Path) -> Iterator[None]:
    """Run the proxy while inside the block; nothing of it is left after it, nor if this process is killed.

    Args:
        http_url: of Triton, such as "127.0.0.1:8000".
        log: where the proxy's own messages go.
    Raises:
        UserError: there is no HAProxy, or it does not start.
    """
    binary = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
    if binary is None:
        raise UserError("--gateway-port: expected HAProxy with Lua, got none. Run `apt install haproxy`.")
    scratch = Path(tempfile.mkdtemp(prefix="dualpath-gateway-"))
    config = scratch / "haproxy.cfg"
    template = Template((_FOLDER / "haproxy.cfg").read_text(encoding="utf-8"))
    lua = _FOLDER / "binary_only.lua"
    config.write_text(template.substitute(address=address, port=port, triton=http_url, most=MOST_BYTES, lua=lua))
    command = [sys.executable, "-I", supervise.__file__, str(GRACE_S), str(scratch), f"{scratch.name}-"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, binary, "-db", "-f", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await(process, address, port, log)
        yield
    finally:
        process.communicate(b"stop")


def _await(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"--gateway-port {port}: expected HAProxy to start, got none. See {log}.") from None
        time.sleep(0.05)
