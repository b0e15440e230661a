"""CPU and memory of the processes on this machine: the server, the instances of its Python models, the client."""

import ipaddress
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil

from dualpath.compare.breakdown import metrics
from dualpath.compare.result import Process

_INSTANCE = re.compile(r"[^/]+_\d+_\d+")
"""The argument of a stub that names its instance: bert-large_0_1."""


def is_loopback(url: str) -> bool:
    """Return whether an address, of gRPC or HTTP, is one of this machine's own."""
    host = url.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
        return all(ipaddress.ip_address(address).is_loopback for address in addresses)
    except (OSError, ValueError):
        return False


def find_server(url: str) -> psutil.Process | None:
    """Return the tritonserver that listens at a loopback address, if it can be seen."""
    if not is_loopback(url):
        return None
    port = url.rstrip("/").rpartition(":")[2]
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == int(port) and connection.pid:
                server = psutil.Process(connection.pid)
                return server if server.name().startswith("tritonserver") else None
    except (OSError, ValueError, psutil.Error):
        pass
    return None


def find_metrics(server: psutil.Process) -> str | None:
    """Return the address of a local server's metrics, found among the ports that it listens on."""
    try:
        listening = [c.laddr for c in server.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr]
    except psutil.Error:
        return None
    for address in sorted(listening, key=lambda address: (address.port != 8002, address.port)):
        unspecified = ipaddress.ip_address(address.ip).is_unspecified
        host = "127.0.0.1" if unspecified else f"[{address.ip}]" if ":" in address.ip else address.ip
        url = f"http://{host}:{address.port}/metrics"
        try:
            metrics.read(url)
        except Exception:  # HTTP to a port that speaks something else
            continue
        return url
    return None


class Usage:
    """Adds up what the client, and a tritonserver on this machine, use between `begin` and `end`."""

    def __init__(self, server: psutil.Process | None) -> None:
        self._server = server
        self._client = psutil.Process()
        self._begun: dict[psutil.Process, float] = {}
        self._found: dict[psutil.Process, Process] = {}

    def begin(self) -> None:
        """Note what each process has used so far."""
        self._begun = {process: cpu_s for process, _, cpu_s, _ in self._read()}

    def end(self) -> None:
        """Add what each process has used since `begin`, and its memory if it is larger than before."""
        for process, name, cpu_s, rss_mb in self._read():
            known = self._found.get(process, Process(name, process.pid, 0.0, 0.0))
            used_s = cpu_s - self._begun.get(process, 0.0)
            self._found[process] = Process(name, process.pid, known.cpu_s + used_s, max(known.rss_mb, rss_mb))

    def processes(self) -> list[Process]:
        """Return the server, its stubs by name, and the client."""
        ours = {self._server: 0, self._client: 2}
        ordered = sorted(self._found.items(), key=lambda item: (ours.get(item[0], 1), item[1].name))
        return [process for _, process in ordered]

    def _read(self) -> Iterator[tuple[psutil.Process, str, float, float]]:
        running = [self._client]
        with suppress(psutil.Error):  # the server has ended
            running += [self._server, *self._server.children(recursive=True)] if self._server else []
        for process in running:
            with suppress(psutil.Error), process.oneshot():  # it has ended
                times = process.cpu_times()
                name = "client" if process == self._client else _name(process)
                yield process, name, times.user + times.system, process.memory_info().rss / 1e6


def _name(process: psutil.Process) -> str:
    """Return a stub's model instance, the model that its stand-in computes, or what the process calls itself."""
    name = process.name()
    arguments = process.cmdline()
    if "dualpath.inference.service" in arguments:
        return f"{arguments[-1]}, engine"
    instances = [argument for argument in arguments if _INSTANCE.fullmatch(argument)]
    return instances[-1] if "stub" in name and instances else name
