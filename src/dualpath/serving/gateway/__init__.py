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
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Self

from dualpath.errors import UserError
from dualpath.serving import supervise

MOST_BYTES = 8 * 1024 * 1024
"""Of a request: 512 rows, the largest batch, have 16 kB each."""
START_S = 5.0
GRACE_S = 5

MOST_AT_ONCE = 64
"""Requests to an ensemble that are under way at a time: Triton's own bound of a step's queue can make it hang."""
AGAIN_S = 5.0
"""How often a proxy that ended is started again."""

_FOLDER = Path(__file__).parent


class Gateway:
    """The proxy, as a context manager: at work inside the block, gone after it, or if this process is killed.

    Args:
        address: IPv4 address to listen on.
        http_url: of Triton, such as "127.0.0.1:8000".
        log: where the proxy's own messages go.
        ensembles: names of models of which `MOST_AT_ONCE` requests at a time are let in.
    Raises:
        UserError: there is no HAProxy, or it does not start.
    """

    def __init__(self, address: str, port: int, http_url: str, log: Path, ensembles: Sequence[str] = ()) -> None:
        self._address, self._port, self._http_url, self._log = address, port, http_url, log
        self._ensembles = ensembles
        self._process: subprocess.Popen[bytes] | None = None
        self._tried = 0.0

    @property
    def url(self) -> str:
        """Its address, such as "http://127.0.0.1:8080"."""
        return f"http://{'127.0.0.1' if self._address == '0.0.0.0' else self._address}:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.communicate(b"stop")
            self._process = None

    def revive(self) -> str | None:
        """Start the proxy again if it has ended, and say so in a line."""
        if self._process is None or self._process.poll() is None or time.monotonic() - self._tried < AGAIN_S:
            return None
        status, self._tried = self._process.returncode, time.monotonic()
        self._process.communicate()
        try:
            self._start()
        except (UserError, OSError) as error:  # such as a full disk
            return f"gateway: {error}"
        return f"gateway: HAProxy ended with status {status}; started again"

    def _start(self) -> None:
        binary = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
        if binary is None:
            raise UserError("--gateway-port: expected HAProxy with Lua, got none. Run `apt install haproxy`.")
        scratch = Path(tempfile.mkdtemp(prefix="dualpath-gateway-"))
        config = scratch / "haproxy.cfg"
        config.write_text(self._config(), encoding="utf-8")
        command = [sys.executable, "-I", supervise.__file__, str(GRACE_S), str(scratch), f"{scratch.name}-"]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, binary, "-db", "-f", str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((self._address, self._port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise UserError(
                        f"--gateway-port {self._port}: expected HAProxy to start, got none. See {self._log}."
                    ) from None
            time.sleep(0.05)

    def _config(self) -> str:
        bounds, backends = "", ""
        for number, name in enumerate(self._ensembles):
            most = f"{{ be_conn(bounded{number}) ge {MOST_AT_ONCE} }}"  # of those under way
            sentence = f"gateway: expected at most {MOST_AT_ONCE} requests of {name} at a time, got more. Retry."
            reply = f'content-type application/json hdr Retry-After 1 string \'{{"error":"{sentence}"}}\''
            bounds += (
                f"    acl bounded{number} path_beg /v2/models/{name}/\n"
                f"    http-request return status 503 {reply} if infer bounded{number} {most}\n"
                f"    use_backend bounded{number} if infer bounded{number}\n"
            )
            backends += f"backend bounded{number}\n    server triton {self._http_url}\n"
        template = Template((_FOLDER / "haproxy.cfg").read_text(encoding="utf-8"))
        return template.substitute(
            address=self._address,
            port=self._port,
            triton=self._http_url,
            most=MOST_BYTES,
            lua=_FOLDER / "binary_only.lua",
            bounds=bounds,
            backends=backends,
        )
