"""A row of the table: a fault, what must hold, and what was seen."""

from collections.abc import Callable
from typing import NamedTuple

from clients import Expected
from served_process import REPOSITORY, ServedProcess


class Found(NamedTuple):
    """What a row has seen, in a line, and whether its bound holds."""

    seen: str
    good: bool


def together(*results: tuple[str, int, str, bool]) -> Found:
    """Put results together: what was done, exit status, what was said, and whether that is right."""
    seen = [
        f"{what}: {status}" + ("" if good else f" {' '.join(said.split())[-230:]!r}")
        for what, status, said, good in results
    ]
    return Found("; ".join(seen), all(good for *_, good in results))


class Stage:
    """The server that rows share: started by the first that asks for it, and anew after one that broke it."""

    def __init__(self) -> None:
        self._served: ServedProcess | None = None
        self._expected: Expected | None = None

    @property
    def served(self) -> ServedProcess:
        """A server with a gateway, at work."""
        if self._served is not None and self._served.process.poll() is not None:
            self.close()
        if self._served is None:
            self._served = ServedProcess(REPOSITORY, "--gateway-port", "0", "--gateway-grpc-port", "0").await_start()
        return self._served

    @property
    def expected(self) -> Expected:
        """The scores of a server that nothing has broken yet."""
        if self._expected is None:
            self._expected = Expected(self.served.at["gRPC"])
        return self._expected

    def close(self) -> None:
        """End the server; the next row gets another."""
        served, self._served = self._served, None
        if served is not None:
            served.end()


class Row(NamedTuple):
    """What is done to the server, what must hold, in words, and the function that does it."""

    name: str
    bound: str
    measure: Callable[[Stage], Found]
