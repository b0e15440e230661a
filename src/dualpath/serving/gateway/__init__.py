"""A stock HAProxy in front of a server's HTTP and gRPC ports, which bounds what a request can cost; HTTP takes binary
tensors only.

Open are health, metadata, configs, statistics and inference; all other paths of Triton are not there.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Self

from dualpath.errors import UserError
from dualpath.serving import supervise
from dualpath.serving.client import TLS

MOST_BYTES = 8 * 1024 * 1024
"""Of a request by HTTP: 512 rows, the largest batch, have 16 kB each."""
MOST_BYTES_GRPC = 1024 * 1024
"""Of a request by gRPC: it is read as a whole, since its shapes may stand anywhere."""
START_S = 5.0
_GRACE_S = 5

MOST_AT_ONCE = 64
"""Requests to an ensemble that are under way at a time by HTTP, and as many by gRPC: Triton's own bound of a step's
queue can make it hang."""
AGAIN_S = 5.0
"""How often a proxy that ended is started again."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class GrpcSide:
    """The gateway's gRPC port.

    Attributes:
        port: to listen on.
        url: of Triton, such as "127.0.0.1:8001".
        tls: files of a certificate and its private key, both PEM.
    """

    port: int
    url: str
    tls: tuple[Path, Path] | None = None


class Gateway:
    """The proxy, as a context manager: at work inside the block, gone after it, or if this process is killed.

    Args:
        address: IPv4 address to listen on.
        http_url: of Triton, such as "127.0.0.1:8000".
        log: where the proxy's own messages go.
        ensembles: names of models of which `MOST_AT_ONCE` requests at a time are let in.
        grpc: its gRPC port, if it is to have one.
    Raises:
        UserError: there is no HAProxy, or it does not start.
    """

    def __init__(
        self,
        address: str,
        port: int,
        http_url: str,
        log: Path,
        ensembles: Sequence[str] = (),
        grpc: GrpcSide | None = None,
    ) -> None:
        self._address, self._port, self._http_url, self._log = address, port, http_url, log
        self._ensembles, self._grpc = ensembles, grpc
        self._process: subprocess.Popen[bytes] | None = None
        self._tried = 0.0

    @property
    def url(self) -> str:
        """Its address, such as "http://127.0.0.1:8080"."""
        return f"http://{self._reached_at}:{self._port}"

    @property
    def grpc_url(self) -> str:
        """Address of its gRPC port, such as "127.0.0.1:8081", or "grpcs://127.0.0.1:8081" with TLS; "" without one."""
        return f"{TLS if self._grpc.tls else ''}{self._reached_at}:{self._grpc.port}" if self._grpc else ""

    @property
    def _reached_at(self) -> str:
        return "127.0.0.1" if self._address == "0.0.0.0" else self._address

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
        config.write_text(self._config(scratch), encoding="utf-8")
        command = [sys.executable, "-I", supervise.__file__, str(_GRACE_S), str(scratch), f"{scratch.name}-"]
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

    def _config(self, scratch: Path) -> str:
        text = self._side(
            "haproxy.cfg",
            "http",
            '503 content-type application/json hdr Retry-After 1 string \'{{"error":"{}"}}\'',
            "path_beg /v2/models/{}/",
            self._http_url,
            port=self._port,
            most=MOST_BYTES,
            folder=_FOLDER,
            buffer=MOST_BYTES_GRPC + 4096,
        )
        if self._grpc is None:
            return text
        protocol = "proto h2"
        if self._grpc.tls:
            both = scratch / "tls.pem"  # HAProxy takes certificate and key from one file
            both.write_bytes(b"\n".join(file.read_bytes() for file in self._grpc.tls))
            protocol = f"ssl crt {both} alpn h2"
        return text + self._side(
            "grpc.cfg",
            "grpc",
            '200 hdr grpc-status 14 hdr grpc-message "{}"',
            "var(txn.model) -m str {}",
            # A connection for each call: a message that Triton cannot parse ends the other calls of its connection too,
            # and one of an ensemble that is cut off ends Triton 24.10.
            f"{self._grpc.url} proto h2 max-reuse 0",
            port=self._grpc.port,
            protocol=protocol,
        )

    def _side(self, template: str, side: str, reply: str, condition: str, server: str, **values: object) -> str:
        """Return the config of one port.

        Args:
            reply: status and what follows it of a refusal; the braces are filled with the reason.
            condition: which requests go to a model; the braces are filled with its name.
        """
        bounds, backends = "", ""
        for number, name in enumerate(self._ensembles):
            bounded = f"{side}_bounded{number}"
            sentence = f"gateway: expected at most {MOST_AT_ONCE} requests of {name} at a time, got more. Retry."
            bounds += (
                f"    acl {bounded} {condition.format(name)}\n"
                f"    http-request return status {reply.format(sentence)} "
                f"if infer {bounded} {{ be_conn({bounded}) ge {MOST_AT_ONCE} }}\n"  # of those under way
                f"    use_backend {bounded} if infer {bounded}\n"
            )
            backends += f"backend {bounded}\n    server triton {server}\n"
        text = Template((_FOLDER / template).read_text(encoding="utf-8"))
        return text.substitute(address=self._address, triton=server, bounds=bounds, backends=backends, **values)
