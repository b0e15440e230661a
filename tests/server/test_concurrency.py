"""Many callers at once: each gets its own scores, none starves, and nothing is left behind."""

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from asking import tensors
from tritonclient.utils import InferenceServerException

from dualpath.readability.combine import combine
from dualpath.readability.samples import SAMPLES
from processes import rss_bytes, shm_bytes, stubs

STRESS_S = float(os.environ.get("DUALPATH_STRESS_S", "8"))
WARM_UP_S = 2
N_CLIENTS = 64
N_TEXTS = 512

RSS_GROWTH = 16 * 2**20
"""Allowance for the allocator: what a leak of a kilobyte per request would pass within a minute."""

SHM_GROWTH = 2**21
"""Triton's Python backend takes shared memory by the megabyte and keeps it; a later peak may need one more."""


class Texts:
    """Short texts, all different, with both models' scores."""

    def __init__(self, reference):
        words = " ".join(SAMPLES.values()).split()
        draw = random.Random(0)
        self.texts = [f"{i} " + " ".join(draw.choices(words, k=draw.randint(3, 20))) for i in range(N_TEXTS)]
        encoded = [text.encode() for text in self.texts]
        self.bert, self.forest = reference.bert(encoded), reference.forest(encoded)

    def request(self, rows, weights):
        """Return the texts of these rows, the weights, and the scores that they must get."""
        weights = np.array(weights, np.float32)
        return [self.texts[row] for row in rows], weights, combine(weights, self.bert[rows], self.forest[rows])

    def draw(self, draw):
        rows = draw.choices(range(N_TEXTS), k=draw.randint(1, 8))
        return self.request(rows, [draw.choice([0, 0, 1, draw.random()]) for _ in rows])


@pytest.fixture(scope="module")
def texts(reference, tolerance):
    texts = Texts(reference)
    for scores in (texts.bert, texts.forest):  # so that another row's score would show
        assert np.median(abs(scores[:, None] - scores)) > 10 * tolerance
    return texts


@pytest.fixture
def check(tolerance):
    async def check(client, texts, weights, expected):
        """Ask once and hold the answer against what it must be."""
        answer = await client.infer("orchestrator", tensors(texts, weights))
        np.testing.assert_allclose(answer.as_numpy("SCORE")[:, 0], expected, rtol=0, atol=tolerance)

    return check


def finished(client):
    """Return how many requests the orchestrator has answered, with scores and with errors."""
    [stats] = client.get_inference_statistics("orchestrator", as_json=True)["model_stats"]
    return tuple(int(stats["inference_stats"].get(kind, {}).get("count", 0)) for kind in ("success", "fail"))


async def stress(url, texts, check, duration_s, seed):
    """Let all clients ask for that long, and count what became of their requests."""
    outcomes = Counter()
    end = time.monotonic() + duration_s

    async def caller(number):
        draw = random.Random(seed * N_CLIENTS + number)
        async with triton.InferenceServerClient(url) as client:
            while time.monotonic() < end:
                request = asyncio.create_task(check(client, *texts.draw(draw)))
                if draw.random() < 0.15:
                    await asyncio.wait([request], timeout=draw.uniform(0, 0.2))
                    request.cancel()
                try:
                    await asyncio.wait_for(request, 60)
                    outcomes["answered"] += 1
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
                except InferenceServerException as error:
                    outcomes["cancelled" if "CANCELLED" in error.status() else error.message()] += 1

    await asyncio.gather(*map(caller, range(N_CLIENTS)))
    return outcomes


def await_idle(client):
    """Wait until nothing is left to do, of requests that were cancelled either."""
    last = None
    while last != (last := finished(client)):
        time.sleep(0.5)


def test_64_clients_get_each_their_own_scores_and_leave_nothing_behind(server, client, texts, check):
    asyncio.run(stress(server.grpc_url, texts, check, WARM_UP_S, seed=0))
    await_idle(client)
    [stub] = stubs(server.pid, "orchestrator")
    rss, shm, (succeeded, failed) = rss_bytes(stub), shm_bytes(server.pid), finished(client)

    outcomes = asyncio.run(stress(server.grpc_url, texts, check, STRESS_S, seed=1))
    await_idle(client)
    rss, shm = rss_bytes(stub) - rss, shm_bytes(server.pid) - shm
    succeeded, failed = np.subtract(finished(client), (succeeded, failed))
    print(f"{dict(outcomes)}, Triton counts {succeeded} and {failed}; grown by: {rss=} {shm=}")
    assert outcomes.keys() == {"answered", "cancelled"}
    assert outcomes["answered"] > N_CLIENTS
    # Triton counts every response; some requests are cancelled before they reach it.
    assert outcomes["answered"] <= succeeded <= succeeded + failed <= outcomes.total()
    assert rss < RSS_GROWTH
    assert shm <= SHM_GROWTH


@asynccontextmanager
async def repeating(url, check, request, n_clients=1):
    """Send one request again and again inside the block; give the growing list of the times at which answers came."""
    times = []
    over = asyncio.Event()

    async def caller():
        async with triton.InferenceServerClient(url) as client:
            while not over.is_set():
                await check(client, *request)
                times.append(time.monotonic())

    async with asyncio.TaskGroup() as callers:
        for _ in range(n_clients):
            callers.create_task(caller())
        yield times
        over.set()


async def until(times, n_answers):
    """Wait until so many answers have come."""
    async with asyncio.timeout(120):
        while len(times) < n_answers:
            await asyncio.sleep(0.01)


def test_a_request_of_512_rows_finishes_under_a_flood_of_single_rows(server, texts, check):
    large = texts.request(np.arange(512), np.linspace(0.1, 1, 512))
    single, free = texts.request([0], [1]), texts.request([1], [0])

    async def run(url):
        async with (
            triton.InferenceServerClient(url) as client,
            repeating(url, check, single, n_clients=32) as singles,
            repeating(url, check, free) as frees,
        ):
            await until(singles, 32)
            before = len(singles), len(frees)
            await asyncio.wait_for(check(client, *large), 120)
            return len(singles) - before[0], len(frees) - before[1]

    singles, frees = asyncio.run(run(server.grpc_url))
    assert singles > 0
    assert frees > 0


def test_single_rows_finish_during_a_stream_of_requests_of_512_rows(server, texts, check):
    large = texts.request(np.arange(512), np.linspace(0.1, 1, 512))
    single, free = texts.request([0], [1]), texts.request([1], [0])

    async def run(url):
        async with repeating(url, check, large) as larges:
            await until(larges, 1)
            async with repeating(url, check, single) as singles, repeating(url, check, free) as frees:
                await until(singles, 1)
                await until(frees, 1)

    asyncio.run(run(server.grpc_url))
