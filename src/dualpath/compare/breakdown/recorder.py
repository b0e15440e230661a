"""Add up, over a contender's turns, what the server counts about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dualpath.compare.result import Process, Stage, Step


@dataclass
class Asked:
    """The rows asked of a contender in a turn; to be set where the contender is not one model of the server."""

    n_rows: int = 0


class Recorder:
    """Reads the server's statistics, metrics and processes before and after each turn, and keeps the differences.

    It never raises because of the server: what could not be read is named in `notes`.

    Args:
        url: the server's gRPC address.
        models: by contender, its model and version ("" is the one that Triton chooses). A contender that is not one
            model of the server is left out, and says its rows by `Asked.n_rows`.
        metrics_url: such as "http://localhost:8002/metrics"; without it there are no stages.
        server_pid: of the tritonserver process where it is local; without it, the process that listens at `url` is
            looked for if `url` is a loopback address.

    Attributes:
        notes: what could not be read, and why.
    """

    def __init__(
        self,
        url: str,
        models: Mapping[str, tuple[str, str]],
        metrics_url: str | None = None,
        server_pid: int | None = None,
    ) -> None:
        self.notes: list[str] = []

    @contextmanager
    def turn(self, contender: str) -> Iterator[Asked]:
        """Attribute to the contender what the server does inside the block. Nothing else may load the server then.

        A turn that ends with an exception is not counted.
        """
        raise NotImplementedError

    def steps(self) -> list[Step]:
        """Return every model that took part in a contender's turns, in order of the contenders."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """Return stages and routes of the BLS models among the contenders. Takes up to 1.2 s: they are told once a
        second."""
        raise NotImplementedError

    def processes(self) -> list[Process]:
        """Return CPU seconds over all turns and the largest memory of the server, its stubs and the client."""
        raise NotImplementedError
