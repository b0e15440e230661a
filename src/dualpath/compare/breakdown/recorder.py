"""Add up, over a contender's turns, what the server counts about itself."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psutil
from tritonclient.utils import InferenceServerException

from dualpath.compare.breakdown import metrics, statistics
from dualpath.compare.breakdown.processes import Usage, find_metrics, find_server
from dualpath.compare.breakdown.statistics import Share, Statistics
from dualpath.compare.rest import client_of
from dualpath.compare.result import Process, Stage, Step

T = TypeVar("T")


@dataclass
class TurnRows:
    """The rows asked of a contender in a turn; to be set if the contender is not one model of the server."""

    n_rows: int = 0


class Recorder:
    """Reads the server's statistics, metrics and processes before and after each turn, and keeps the differences.

    It never raises because of the server: what could not be read is named in `notes`.

    Args:
        url: the server's address, by gRPC or HTTP.
        models: by contender, its model and version ("" is the one that Triton chooses). A contender that is not one
            model of the server is left out, and says its rows by `TurnRows.n_rows`.
        metrics_url: such as "http://localhost:8002/metrics"; without it, it is looked for if the server is local.
        server_pid: of the tritonserver process if it is local; without it, the process that listens at `url` is
            looked for if `url` is a loopback address.
        headers: that go with each request.

    Attributes:
        notes: what could not be read, and why.
    """

    def __init__(
        self,
        url: str,
        models: Mapping[str, tuple[str, str]],
        metrics_url: str | None = None,
        server_pid: int | None = None,
        headers: Mapping[str, str] = {},
    ) -> None:
        self.notes: list[str] = []
        self._created = time.monotonic()
        self._client = client_of(url, headers)
        self._shares = {name: self._share(*model) for name, model in models.items()}
        server = None
        with suppress(psutil.Error):
            server = find_server(url) if server_pid is None else psutil.Process(server_pid)
        if server is None:
            self.notes.append(f"No figures of the server's processes: none is seen on this machine that serves {url}.")
        self._usage = Usage(server)
        self._metrics_url = metrics_url or (find_metrics(server) if server else None)
        if self._metrics_url is None:
            self.notes.append("No stages and routes of BLS models: the address of the server's metrics is not known.")
        # Their metrics do not tell versions apart, so their stages are told apart by turns.
        self._shared = {model for model, n in Counter(model for model, _ in models.values()).items() if n > 1}
        self._metrics_first: metrics.Reading | None = None
        self._metrics_last: metrics.Reading = {}
        self._counted: dict[str, dict[metrics.Series, float]] = {}

    @contextmanager
    def turn(self, contender: str) -> Iterator[TurnRows]:
        """Attribute to the contender what the server does inside the block. Nothing else may load the server then.

        A turn that ends with an exception counts as far as it got.
        """
        asked = TurnRows()
        if self._metrics_first is None and (now := self._read_metrics()) is not None:
            self._metrics_first = self._metrics_last = now
        before = self._try(lambda: statistics.read(self._client))
        self._usage.begin()
        try:
            yield asked
        finally:
            self._usage.end()
            after = self._try(lambda: statistics.read_settled(self._client))
            if before is not None and after is not None:
                self._add(contender, asked.n_rows, statistics.difference(after, before))

    def steps(self) -> list[Step]:
        """Return every model that took part in a contender's turns, in order of the contenders."""
        return [step for name, share in self._shares.items() for step in share.steps(name)]

    def stages(self) -> list[Stage]:
        """Return stages and routes of the BLS models that took part. Takes 1.2 s: they are told once a second.

        A model's stages are its caller's. If several contenders call one, it has them together, under a name such
        as "A + B"; but those of a model that is itself two contenders are told apart.
        """
        counted = {name: dict(series) for name, series in self._counted.items()}
        if self._metrics_first is not None and (now := self._read_metrics()):
            for series, value in metrics.difference(now, self._metrics_first).items():
                callers = [
                    name for name, it in self._shares.items() if series.model in {model for model, _ in it.counts}
                ]
                if callers and series.model not in self._shared:
                    counted.setdefault(" + ".join(callers), {})[series] = value
        own = {name: share.model for name, share in self._shares.items()}
        return [stage for name, series in counted.items() for stage in metrics.stages(name, series, own.get(name))]

    def processes(self) -> list[Process]:
        """Return CPU seconds over all turns and the largest memory of the server, its stubs and the client."""
        return self._usage.processes()

    def close(self) -> None:
        """Close the connection to the server; what was read stays."""
        self._client.close()

    def _add(self, contender: str, n_rows: int, turn: Statistics) -> None:
        share = self._shares.setdefault(contender, Share())
        if share.model is None and not n_rows:  # the turn failed before its rows were counted
            return
        share.n_rows += n_rows
        share.add(turn)
        if self._metrics_first is not None and share.model in self._shared and (now := self._read_metrics()):
            counted = self._counted.setdefault(contender, {})
            for series, value in metrics.difference(now, self._metrics_last).items():
                if series.model == share.model:
                    counted[series] = counted.get(series, 0.0) + value
            self._metrics_last = now

    def _share(self, model: str, version: str) -> Share:
        timeout_s = statistics.STATISTICS_TIMEOUT_S
        answer = self._try(lambda: self._client.get_model_config(model, version, client_timeout=timeout_s))
        return Share(model, version, answer is not None and answer.config.platform == "ensemble")

    def _read_metrics(self) -> metrics.Reading | None:
        """Read the metrics, with all that happened before the call."""
        url = self._metrics_url
        if url is None:
            return None
        read = partial(metrics.read, url)
        if time.monotonic() - self._created > metrics.SETTLE_S and self._try(partial(metrics.tells_any, url)) is False:
            return {}  # a BLS model would have told its rows in flight by now, asked or not
        time.sleep(metrics.SETTLE_S)
        return self._try(read)

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except InferenceServerException as error:
            reason = str(error.message())
        except (OSError, ValueError, psutil.Error) as error:
            reason = str(error)
        note = f"The server's figures could not always be read: {' '.join(reason.split())}"
        if note not in self.notes:
            self.notes.append(note)
        return None
