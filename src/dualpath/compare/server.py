"""The server that models are compared on, somebody else's or one that is started for the run, and the machine."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tritonclient.utils import InferenceServerException

from dualpath import __version__
from dualpath.compare.connection import Headers
from dualpath.compare.rest import live_client
from dualpath.errors import UserError
from dualpath.inference.served import engines
from dualpath.readability.contract import BERT, TOLERANCES
from dualpath.repository import folders
from dualpath.repository.facts import Facts
from dualpath.serving import ServerFailed, TritonServer
from dualpath.serving.loader import Loader

Start = Callable[..., AbstractContextManager[TritonServer]]
"""Starts a server on a model repository; takes `config_name` too."""


def start_quietly(model_repository: Path, config_name: str | None = None) -> TritonServer:
    """Return a server on free ports, which starts when it is entered."""
    return TritonServer(model_repository, http_port=0, grpc_port=0, metrics_port=0, config_name=config_name)


@dataclass
class Server:
    """A server and a connection to it.

    Attributes:
        own: whether it was started for the run.
        bert: the facts of its BERT; empty of somebody else's server.
        headers: that go with each request.
    """

    url: str
    own: TritonServer | None = None
    bert: Facts = field(default_factory=Facts)
    headers: Headers = ()
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = live_client(self.url, dict(self.headers))

    @property
    def precision(self) -> str | None:
        """What its BERT computes in, if that is known."""
        return self.bert.precision

    def close(self) -> None:
        """Close the connection; the server stays."""
        self.client.close()

    def gone(self) -> str | None:
        """Say why the server is gone, or None."""
        try:
            if self.own:
                self.own.wait(0)
            return None if self.client.is_server_live(client_timeout=5) else "it is not alive"
        except ServerFailed as error:
            return str(error).rstrip(".")
        except InferenceServerException as error:
            return f"no answer from {self.url}: {error.message()}"

    def engines(self) -> dict[str, str]:
        """Return what computes for the stand-ins, by "engine of MODEL:VERSION"; empty for somebody else's server."""
        found = engines(self.own.metrics_url) if self.own and self.own.metrics_url else {}
        return {f"engine of {model}": engine for model, engine in found.items()}

    def describe(self) -> str:
        """Return its name, version and address; UserError if it does not say."""
        try:
            metadata = self.client.get_server_metadata(as_json=True, client_timeout=5)
        except InferenceServerException as error:
            raise UserError(
                f"--url: expected a server at {self.url} that names itself, got: {error.message()}. Look at its log."
            ) from None
        where = "a port of its own, started for this run" if self.own else self.url
        return f"{metadata.get('name', 'unknown')} {metadata.get('version', '')} at {where}"


def check_models(model_repository: Path, names: Iterable[str]) -> None:
    """Raise a UserError for a model repository that lacks one of these models."""
    known = {model.name for model in folders.models(model_repository)}
    if unknown := sorted({*names} - known):
        raise UserError(
            f"{unknown[0]}: expected a model of {model_repository}, got one that it lacks. "
            f"It has {', '.join(sorted(known))}."
        )


@contextmanager
def serving(model_repository: Path, start: Start = start_quietly, config_name: str | None = None) -> Iterator[Server]:
    """Start a server on a model repository, connect to it, and stop it in the end."""
    with start(model_repository, config_name=config_name) as triton, closing(Server(triton.grpc_url, triton)) as server:
        served = Loader(server.client).ready().get(BERT.name, ())
        facts = [Facts.of(model_repository / BERT.name / str(version)) for version in served]
        # Of several versions the least exact: what is compared may ask any of them.
        server.bert = max(facts, key=lambda it: TOLERANCES.get(it.precision or "", 0), default=Facts())
        yield server


def machine_facts() -> dict[str, str]:
    """Describe this machine and this process, for which figures hold."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(available),
        "instructions": ", ".join(
            flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in _cpuinfo("flags").split()
        ),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "dualpath": __version__,
    }


def _cpuinfo(name: str) -> str:
    file = Path("/proc/cpuinfo")  # Linux's
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
