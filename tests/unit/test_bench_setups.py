"""The set-ups as contenders: what the client's process computes, and which requests are not sent."""

import asyncio

import numpy as np
import pytest
import treelite
from served_models import Model, served
from tritonclient.grpc import service_pb2

from dualpath.compare.result import Cell, Load, Measured, Result
from dualpath.compare.setups import BERT_WEIGHT, InClient, InTriton, batches, headline, too_slow
from dualpath.readability.contract import BERT, CHUNK_ROWS, FOREST
from dualpath.readability.samples import SAMPLES

TEXTS = [text.encode() for text in SAMPLES.values()]


@pytest.fixture
def in_client(model_repository):
    return InClient("client", "nowhere:1", model_repository)


def test_the_client_scores_what_the_reference_scores(in_client, reference, model_repository):
    forest = treelite.Model.deserialize(model_repository / "cuml/1/checkpoint.tl")

    async def infer(model, *inputs):
        """Answer as Triton would: run the artifact on what was sent."""
        await asyncio.sleep(0)
        if model is FOREST:
            return np.float32(treelite.gtil.predict(forest, *inputs)).reshape(-1, 1)
        starts = range(0, len(inputs[0]), CHUNK_ROWS)
        return np.concatenate(
            [reference._bert.run([array[start : start + CHUNK_ROWS] for array in inputs])[0] for start in starts]
        )

    scores = asyncio.run(in_client.score(infer, TEXTS))
    assert scores.tolist() == reference.score(TEXTS, np.full(len(TEXTS), BERT_WEIGHT, np.float32)).tolist()
    assert np.ptp(scores) > 0.5


def test_both_models_are_called_at_the_same_time(in_client):
    async def infer(model, *inputs):
        waiting.append(model)
        while len(waiting) < 2:
            await asyncio.sleep(0.001)
        return np.zeros((1, 1), np.float32)

    waiting = []
    asyncio.run(asyncio.wait_for(in_client.score(infer, TEXTS[:1]), 5))
    assert waiting == [BERT, FOREST]


def test_the_client_takes_files_and_models_of_the_newest_release(model_repository, tmp_path):
    for model in (BERT, FOREST):
        (tmp_path / model.name / "1").mkdir(parents=True)
        (tmp_path / model.name / "1" / model.companion).write_text("of a release that is served no more")
        (tmp_path / model.name / "2").symlink_to(model_repository / model.name / "1")

    def zeros(name):
        return lambda inputs: {name: np.zeros((len(next(iter(inputs.values()))), 1), np.float32)}

    models = {
        model.name: Model(zeros(model.outputs[0].name), inputs=model.inputs, outputs=model.outputs)
        for model in (BERT, FOREST)
    }
    with served(models) as (url, servicer):

        async def score():
            async with InClient("client", url, tmp_path).connect() as score:
                return await score(TEXTS[:3])

        assert asyncio.run(score()).tolist() == [0, 0, 0]
        assert sorted(servicer.seen) == [("bert-large", "2"), ("cuml", "2")]


def test_a_triton_contender_asks_its_model_for_the_score_alone():
    contender = InTriton("all", "nowhere:1", "ensemble_all").contender(batches(TEXTS, 4))
    assert contender.n_rows == 4
    request = service_pb2.ModelInferRequest.FromString(contender.requests[0])
    assert request.model_name == "ensemble_all"
    assert [output.name for output in request.outputs] == ["SCORE"]
    assert [list(tensor.shape) for tensor in request.inputs] == [[4, 1], [4, 1]]
    assert np.frombuffer(request.raw_input_contents[1], np.float32).tolist() == [BERT_WEIGHT] * 4


def test_batches_go_round_the_excerpts():
    assert batches([b"a", b"b", b"c"], 2)[:3] == [[b"a", b"b"], [b"c", b"a"], [b"b", b"c"]]
    assert len(batches([b"a"], 1)) == 256
    assert [len(batch) for batch in batches([b"a", b"b"], 512)] == [512] * 4


def cell(batch, p50_s, concurrency=1, name="a"):
    latencies = {50: p50_s * 1e3} if p50_s else {}
    return Cell(Load(batch, concurrency), {name: Measured(1.0, 1, 0, 0, None, latencies)})


def test_a_request_is_sent_while_nothing_is_known_of_it():
    assert too_slow([], "a", Load(512, 1)) is None
    assert too_slow([cell(256, 20, name="b")], "a", Load(512, 1)) is None
    assert too_slow([cell(256, None)], "a", Load(512, 1)) is None


def test_a_request_is_not_sent_when_twice_the_last_one_is_over_30_s():
    cells = [cell(1, 1.0), cell(2, 1.5), cell(128, 15.1)]
    assert too_slow(cells, "a", Load(256, 1)) == "over 30 s a request: about 30.2 s, judged by 15.1 s for 128 rows"
    assert too_slow(cells, "a", Load(512, 1)) == "over 30 s a request: about 60.4 s, judged by 15.1 s for 128 rows"
    cells[-1] = cell(128, 14.9)
    assert too_slow(cells, "a", Load(256, 1)) is None


def test_more_clients_make_a_request_longer():
    assert too_slow([cell(64, 8)], "a", Load(64, 4)) == "over 30 s a request: about 32 s, judged by 8.0 s for 64 rows"
    assert too_slow([cell(64, 8, concurrency=4)], "a", Load(128, 4)) is None


def measured(rows_per_s, p50_ms):
    return Measured(rows_per_s, 1, 0, 0, None, {50: p50_ms})


def test_the_headline_is_the_latency_of_one_and_the_best_throughput():
    one = Cell(Load(1, 1), {"b": measured(26.0, 38.04), "a": measured(0.8, 1234.5)})
    many = Cell(Load(8, 4), {"a": measured(45.01, 700.0)})
    assert headline(Result("", ["a", "b", "c"], "", "", cells=[one, many])) == (
        "One excerpt alone takes 1,234 ms (a), 38 ms (b). "
        "The best throughput is 45 rows/s (a; 4 clients, 8 rows a request)."
    )
    assert headline(Result("", ["a"], "", "", cells=[Cell(Load(1, 1))])) == ""
