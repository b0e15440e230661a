"""Set-ups of the pipeline, as contenders: all of it in Triton, or pre- and postprocessing in the client's process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.agreement import Answer
from dualpath.compare.connection import over_grpc, serialise
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender
from dualpath.compare.requests import Ask
from dualpath.compare.result import Cell, Load, Result
from dualpath.compare.tensors import decode, infer_input
from dualpath.errors import UserError
from dualpath.readability.combine import Scores, combine
from dualpath.readability.contract import BERT, EXCERPT, FOREST, SCORE, ModelContract
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad
from dualpath.repository.releases import newest_release
from dualpath.serving.client import scored_inputs

BERT_WEIGHT = 0.5
"""Every row needs both models."""
GROUP = str(BERT_WEIGHT)
"""The label of all latencies."""
N_ROWS = 256
"""Rows that the requests of a load hold between them, at least; they go round and round."""

LONGEST_REQUEST_S = 30.0
"""Requests that would take longer are not sent."""

Infer = Callable[..., Awaitable[npt.NDArray[Any]]]
"""infer(model, *inputs): calls one of the two models and returns its output."""

Score = Callable[[Sequence[bytes]], Awaitable[Scores]]
"""Scores excerpts in one request: float32 [rows]."""


@dataclass(frozen=True)
class InTriton:
    """The server takes excerpts and gives scores; under load the client sends requests serialised beforehand."""

    name: str
    url: str
    model: str

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Score]:
        """Open a connection."""

        async with over_grpc(self.url) as send:

            async def score(excerpts: Sequence[bytes]) -> Scores:
                return decode(await send(self._request(excerpts)))[SCORE.name][:, 0]

            yield score

    def contender(self, batches: Sequence[Sequence[bytes]]) -> Contender:
        """Return what puts load on it: these excerpts, one batch a request."""
        requests = [self._request(excerpts) for excerpts in batches]
        return Contender(self.name, requests, [GROUP] * len(batches), len(batches[0]), lambda _: over_grpc(self.url))

    def _request(self, excerpts: Sequence[bytes]) -> bytes:
        weights = np.full(len(excerpts), BERT_WEIGHT, np.float32)
        return serialise(self.model, scored_inputs(excerpts, weights), [SCORE.name])


class InClient:
    """The client's process makes tokens and features, calls both models in parallel, and combines their scores.

    A whole request goes to each model in one call, padded to its longest row, as in an application without an
    orchestrator. Under load all clients share one process and one thread. The tokenizer, the word lists and the models
    are those of the newest release, which is the one that is served.
    """

    def __init__(self, name: str, url: str, model_repository: Path) -> None:
        self.name, self.url = name, url
        self._release = str(newest_release(model_repository) or 1)
        tokenizer, word_lists = (
            model_repository / m.name / self._release / (m.companion or "") for m in (BERT, FOREST)
        )
        self._tokens, self._features = TokenEncoder(tokenizer), FeatureCounter(WordLists.load(word_lists))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Score]:
        async with over_grpc(self.url) as send:

            async def infer(model: ModelContract, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
                tensors = [infer_input(tensor, array) for tensor, array in zip(model.inputs, inputs, strict=True)]
                answer = await send(serialise(model.name, tensors, version=self._release))
                return decode(answer)[model.outputs[0].name]

            yield partial(self.score, infer)

    def contender(self, batches: Sequence[Sequence[bytes]]) -> Contender:
        return Contender(self.name, batches, [GROUP] * len(batches), len(batches[0]), lambda _: self.connect())

    async def score(self, infer: Infer, excerpts: Sequence[bytes]) -> Scores:
        """Score excerpts: float32 [rows]."""
        input_ids, attention_mask = pad(self._tokens.encode(excerpts))
        features = self._features.features(excerpts)
        bert, forest = await asyncio.gather(infer(BERT, input_ids, attention_mask), infer(FOREST, features))
        return combine(np.full(len(excerpts), BERT_WEIGHT, np.float32), bert[:, 0], forest[:, 0])


BenchSetup = InTriton | InClient


@asynccontextmanager
async def asking(setup: BenchSetup, rows: Sequence[Row]) -> AsyncIterator[Ask]:
    """Connect to a set-up for asking it, as `Wire.asking` does."""
    async with setup.connect() as score:

        async def ask(numbers: Sequence[int], more: bytes) -> Answer:
            return {SCORE.name: await score([excerpt_of(rows[number]) for number in numbers])}

        yield ask


def excerpt_of(row: Row) -> bytes:
    """Return the row's excerpt; UserError if it has several."""
    texts = row.tensors[EXCERPT.name].ravel().tolist()
    if len(texts) != 1:
        raise UserError(f"{row.where}: expected one excerpt, got {len(texts)}. Make each a row of its own.")
    excerpt: bytes = texts[0]
    return excerpt


def batches(excerpts: Sequence[bytes], n_rows: int) -> list[list[bytes]]:
    """Cut excerpts into requests of `n_rows`, four at least, round and round."""
    n_requests = max(4, N_ROWS // n_rows)
    return [
        [excerpts[(number * n_rows + row) % len(excerpts)] for row in range(n_rows)] for number in range(n_requests)
    ]


def too_slow(cells: Sequence[Cell], name: str, load: Load) -> str | None:
    """Say why a contender's request is not sent: judged by the heaviest load so far, it would take over 30 s.

    Twice the rows take twice the time; of larger batches that is nearly so, of smaller ones it errs on the long side.
    """
    before = [(_rows(cell.load), cell.measured[name].latencies_ms.get(50)) for cell in cells if name in cell.measured]
    answered = [(n_rows, p50_ms) for n_rows, p50_ms in before if p50_ms is not None]
    if not answered:
        return None
    n_rows, p50_ms = max(answered)
    expected_s = p50_ms / 1e3 * _rows(load) / n_rows
    if expected_s <= LONGEST_REQUEST_S:
        return None
    judged = f"about {expected_s:.3g} s, judged by {p50_ms / 1e3:.1f} s for {n_rows} rows"
    return f"over {LONGEST_REQUEST_S:.0f} s a request: {judged}"


def _rows(load: Load) -> int:
    """Rows that wait for their answers at a time."""
    return load.batch * (load.concurrency or 1)


def headline(result: Result) -> str:
    """Say what one excerpt takes in each set-up, and which load gave the best throughput; "" if nothing ran."""
    alone = [
        f"{ms:,.0f} ms ({name})" if ms >= 100 else f"{ms:.3g} ms ({name})"
        for cell in result.cells
        if cell.load == Load(1, 1)
        for name in result.contenders
        if name in cell.measured and (ms := cell.measured[name].latencies_ms.get(50)) is not None
    ]
    loads = [
        (measured.rows_per_s, name, cell.load) for cell in result.cells for name, measured in cell.measured.items()
    ]
    said = [f"One excerpt alone takes {', '.join(alone)}."] if alone else []
    if loads:
        rows_per_s, name, load = max(loads, key=lambda it: it[0])
        how = f"{name}; {load.senders}, {load.batch} rows a request"
        said.append(f"The best throughput is {rows_per_s:.3g} rows/s ({how}).")
    return " ".join(said)
