"""Clients of both models, whose answers are compared with those that the server gave while nothing was broken."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from served_process import REPOSITORY
from tritonclient.utils import InferenceServerException

from dualpath.readability.contract import SCORERS, TOLERANCES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import Scorer, open_client

MODELS = tuple(model.name for model in SCORERS)
TEXTS = tuple(
    (f"On day {day} the children played in the garden until the rain came, and then they ran home. " * (1 + day % 4))
    .strip()
    .encode()
    for day in range(1, 9)
)
"""Excerpts of different lengths and scores, so that an answer to another's request is seen."""
WEIGHTS = (0.0, 0.5, 1.0, 0.0)
N_CLIENTS = 16
CLIENT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Call:
    """One request: when it began and ended, and its score; NaN if it failed."""

    model: str
    weight: float
    text: int
    began: float
    ended: float
    score: float
    error: str = ""


class Expected:
    """The scores that a server gave, by text and weight, while nothing was broken."""

    def __init__(self, url: str) -> None:
        client = open_client(url)
        scorer = Scorer(client, "orchestrator")
        self._scores = {
            (text, weight): float(scorer.score([TEXTS[text]], np.array([weight], np.float32))[0])
            for text in range(len(TEXTS))
            for weight in set(WEIGHTS)
        }
        client.close()
        self._tolerance = TOLERANCES[Facts.of(newest(REPOSITORY / "bert-large")).precision or "float32"]

    def wrong(self, calls: Sequence[Call]) -> int:
        """Count the answers that are further from it than the precision allows."""
        return sum(
            not abs(call.score - self._scores[call.text, call.weight]) <= self._tolerance
            for call in calls
            if not call.error
        )


@dataclass
class Load:
    """Clients that call both models with mixed weights, each on a connection of its own.

    Args:
        url: gRPC address.
        weights: of the requests, by pair of clients.
        models: whom they call, by turns.
        n_requests: after which all stop, which the end of the block waits for; None goes on to the end of the block.
    """

    url: str
    weights: Sequence[float] = WEIGHTS
    models: Sequence[str] = MODELS
    n_requests: int | None = None
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(N_CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.n_requests is None or kind:
            self._stop.set()
        try:
            for thread in self._threads:
                thread.join()
        finally:
            self._stop.set()

    def _client(self, number: int) -> None:
        model = self.models[number % len(self.models)]
        weight = self.weights[number // len(self.models) % len(self.weights)]
        client = open_client(self.url)
        scorer = Scorer(client, model)
        text = number
        while not self._stop.is_set() and (self.n_requests is None or len(self.calls) < self.n_requests):
            text = (text + 1) % len(TEXTS)
            began = time.monotonic()
            score, error = math.nan, ""
            try:
                scores = scorer.score([TEXTS[text]], np.array([weight], np.float32), client_timeout=CLIENT_TIMEOUT_S)
                score = float(scores[0])
            except InferenceServerException as failure:
                error = str(failure.message())
            self.calls.append(Call(model, weight, text, began, time.monotonic(), score, error))
            if error:
                self._stop.wait(0.05)
        client.close()
