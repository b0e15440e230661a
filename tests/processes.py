"""The processes of a Triton server, and what they hold, read from /proc."""

from pathlib import Path

import psutil


def stubs(server_pid, model):
    """Return the process ids of a model's instances on the server with this process id."""
    return [child.pid for child in psutil.Process(server_pid).children() if _is_instance(_arguments(child), model)]


def tritons(pid):
    """Return the Triton servers that a process has started, with their gRPC addresses."""
    servers = {}
    for child in psutil.Process(pid).children(recursive=True):
        arguments = _arguments(child)
        ports = [argument.partition("=")[2] for argument in arguments if argument.startswith("--grpc-port=")]
        if ports and Path(arguments[0]).name == "tritonserver":
            servers[child.pid] = f"127.0.0.1:{ports[0]}"
    return servers


def rss_bytes(pid):
    """Return a process's resident memory without what it shares with others."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def shm_bytes(server_pid):
    """Return how much of /dev/shm the server and its stubs hold."""
    regions = set()
    for pid in [server_pid, *(child.pid for child in psutil.Process(server_pid).children())]:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        regions.update(Path(line.split(maxsplit=5)[5]) for line in maps if "/dev/shm/" in line)
    return sum(region.stat().st_blocks * 512 for region in regions if region.exists())


def _arguments(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def _is_instance(arguments, model):
    # Triton names an instance after its model: bert-large_0_1.
    return any(argument.rsplit("_", 2)[0] == model and argument.count("_") >= 2 for argument in arguments)
