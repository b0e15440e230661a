"""Whether two models agree: made-up answers first, then models on a gRPC server."""

import asyncio
from contextlib import asynccontextmanager, closing
from functools import partial

import numpy as np
import pytest
from served_models import PAIR, Model, Refusal, lengths, routed, served
from tritonclient.grpc import service_pb2

from dualpath.compare import target
from dualpath.compare.agreement import Agreement, LoadCheck
from dualpath.compare.inputs import Row
from dualpath.compare.load import Contender
from dualpath.compare.parity import N_LATE, Asking, SharedRequests
from dualpath.compare.requests import Wire
from dualpath.compare.result import Result
from dualpath.compare.tolerance import Tolerance, tolerances
from dualpath.errors import UserError
from dualpath.readability.contract import ROUTE, SCORE
from dualpath.serving.client import connect

ATOL = 2e-5
ALONE = SharedRequests()


def rows(n_rows):
    return [
        Row(
            f"in.csv:{number + 2}",
            {"excerpt": np.array([b"x" * (number + 1)], np.object_), "BERT_WEIGHT": np.ones(1, np.float32)},
        )
        for number in range(n_rows)
    ]


def result_of(answer_a, answer_b, n_rows, outputs=("SCORE",), shared=ALONE, **options):
    """Compare two functions from a row to its outputs, which answer a batch row by row."""

    @asynccontextmanager
    async def connect(answer):
        async def ask(numbers, more):
            answers = [answer(asked[number]) for number in numbers]
            return {name: np.stack([it[name] for it in answers]) for name in answers[0]}

        yield ask

    asked = rows(n_rows)
    result = Result("a pair", ["A", "B"], "", "")
    agreement = Agreement(("A", "B"), [row.where for row in asked], dict.fromkeys(outputs, Tolerance(ATOL)))
    try:
        connects = [partial(connect, answer) for answer in (answer_a, answer_b)]
        Asking(result, agreement, ("A", "B"), asked, shared).run(connects, **options)
    finally:
        result.parity = agreement.parities()
        result.failed |= not all(it.ok for it in result.parity)
    return result


def score(row):
    return {"SCORE": np.array([len(row.tensors["excerpt"][0]) / 7], np.float32)}


def test_a_difference_of_a_thousandth_in_one_row_of_512_is_caught_and_named():
    def off(row):
        wrong = row.where == "in.csv:300"
        return {"SCORE": score(row)["SCORE"] + np.float32(1e-3 * wrong)}

    result = result_of(score, off, 512)
    assert result.failed
    [found] = result.parity
    assert not found.ok
    assert (found.baseline, found.other) == ("A", "B")
    assert (found.n_rows, found.n_equal) == (512, 511)
    assert found.largest == pytest.approx(1e-3, rel=0.01)
    assert found.mean == pytest.approx(1e-3 / 512, rel=0.01)
    [worst] = found.worst
    assert worst.where == "in.csv:300"
    assert worst.other - worst.baseline == pytest.approx(1e-3, rel=0.01)


def test_a_sequence_that_outlasts_its_time_is_ended_by_its_next_step_which_is_not_judged():
    ends = []

    @asynccontextmanager
    async def connect():
        async def ask(numbers, more):
            parameters = service_pb2.ModelInferRequest.FromString(more).parameters
            ends.append((parameters["sequence_id"].int64_param, parameters["sequence_end"].bool_param))
            await asyncio.sleep(0.01)
            early = parameters["sequence_end"].bool_param and numbers != [99]
            return {"SCORE": np.array([[numbers[0] + early]], np.float32)}

        yield ask

    asked = rows(100)
    result = Result("a pair", ["A", "B"], "", "")
    agreement = Agreement(("A", "B"), [row.where for row in asked], {"SCORE": Tolerance(0)})
    Asking(result, agreement, ("A", "B"), asked, SharedRequests((1,), 2, 0.05), [range(100)]).run([connect] * 2)
    cut = {name for name, is_end in ends if is_end and [it for it, _ in ends].count(name) < 100}
    assert len(cut) == 4
    assert [it.ok for it in agreement.parities()] == [True]


def test_equal_answers_are_equal_to_the_bit():
    result = result_of(score, score, 20)
    [found] = result.parity
    assert (found.n_equal, found.largest, found.mean, found.worst, found.ok) == (20, 0, 0, (), True)
    assert not result.failed


def test_a_model_that_fails_on_a_row_fails_the_run_and_the_others_are_compared():
    def failing(row):
        if row.where in ("in.csv:3", "in.csv:5"):
            raise RuntimeError("out of luck")
        return score(row)

    result = result_of(score, failing, 10)
    assert result.failed
    assert result.parity[0].n_rows == 8
    assert result.notes == ["B failed on 2 of 10 inputs, first on in.csv:3: out of luck"]


def test_a_server_that_goes_away_leaves_the_rows_until_then():
    def failing(row):
        if row.where == "in.csv:6":
            raise RuntimeError("connection reset")
        return score(row)

    result = result_of(failing, failing, 10, gone=lambda: "killed")
    assert result.failed
    assert result.parity[0].n_rows == 4
    assert result.notes[0] == "The server went away (killed) at input 5 of 10."


def test_a_model_that_hangs_is_asked_a_few_rows_only():
    def hanging(row):
        if row.where not in ("in.csv:2", "in.csv:6"):
            raise TimeoutError
        return score(row)

    result = result_of(score, hanging, 512)  # 2 answers, 3 time-outs, 2 answers, then time-outs only
    assert result.failed
    assert result.parity[0].n_rows == 2
    assert result.notes == [
        f"Answers were compared up to input {5 + N_LATE} of 512: B gave none in time, {N_LATE} times in a row.",
        f"B failed on {3 + N_LATE} of 512 inputs, first on in.csv:3: no answer in time",
    ]


def test_ctrl_c_leaves_the_rows_until_then():
    def interrupted(row):
        if row.where == "in.csv:6":
            raise KeyboardInterrupt
        return score(row)

    result = Result("a pair", ["A", "B"], "", "")
    asked = rows(10)
    agreement = Agreement(("A", "B"), [row.where for row in asked], {"SCORE": Tolerance(ATOL)})

    @asynccontextmanager
    async def connect():
        async def ask(numbers, more):
            return {"SCORE": np.stack([interrupted(asked[number])["SCORE"] for number in numbers])}

        yield ask

    with pytest.raises(KeyboardInterrupt):
        Asking(result, agreement, ("A", "B"), asked).run([connect] * 2)
    assert agreement.parities()[0].n_rows == 4
    assert result.notes == ["Interrupted after 4 of 10 inputs."]
    assert not result.failed


def served_pair(models, n_rows=8):
    with served(models) as (url, servicer), closing(connect(url)) as client:
        a, b = (target.read(client, name) for name in models)
        pair, asked = target.pair(a, b), rows(n_rows)
        result = Result("a pair", list(models), "", "")
        allowed = tolerances(pair.outputs, {"": ATOL}, {})
        batches = (a.max_batch_size > 0, b.max_batch_size > 0)
        agreement = Agreement((a.name, b.name), [row.where for row in asked], allowed, batches)
        try:
            asking = Asking(result, agreement, (a.name, b.name), asked)
            asking.run([partial(Wire(url, pair).asking, it, asked) for it in (a, b)], 5)
        finally:
            result.parity = agreement.parities()
            result.failed |= not all(it.ok for it in result.parity)
    return result, servicer


def test_served_models_are_asked_row_by_row():
    result, servicer = served_pair(PAIR)
    assert [(it.output, it.n_rows, it.n_equal) for it in result.parity] == [("SCORE", 8, 8)]
    assert sorted(servicer.seen) == [("ensemble_all", "")] * 8 + [("orchestrator", "")] * 8


def test_texts_that_both_serve_are_compared_too():
    model = Model(routed, outputs=(SCORE, ROUTE))
    result, _ = served_pair({"one": model, "other": model})
    assert [(it.output, it.n_equal) for it in result.parity] == [("SCORE", 8), ("ROUTE", 8)]


def test_models_without_batching_are_compared():
    def alone(inputs):
        return {name: array[0] for name, array in lengths({k: v[None] for k, v in inputs.items()}).items()}

    result, _ = served_pair({"batched": Model(), "alone": Model(alone, max_batch_size=0)})
    assert [(it.n_rows, it.n_equal) for it in result.parity] == [(8, 8)]


def test_an_answer_without_an_output_is_a_difference_unless_both_leave_it_out():
    result, _ = served_pair({"one": Model(), "other": Model(lambda inputs: {})}, 2)
    [parity] = result.parity
    assert (result.failed, parity.beyond) == (True, {"alone": 2})
    assert [(row.baseline, row.other) for row in parity.worst] == [("an output", "no output")] * 2
    result, _ = served_pair({"one": Model(lambda inputs: {}), "other": Model()}, 2)
    assert result.parity[0].worst[0].other == "an output"
    result, _ = served_pair({"one": Model(lambda inputs: {}), "other": Model(lambda inputs: {})}, 2)
    assert (result.failed, result.parity[0].n_rows) == (False, 0)


def test_a_row_that_both_refuse_is_the_users_fault():
    def picky(inputs):
        if len(inputs["excerpt"][0, 0]) == 3:
            raise Refusal("excerpt[0]: three letters are bad luck.")
        return lengths(inputs)

    with pytest.raises(
        UserError, match=r"in\.csv:4: expected a valid row, got: excerpt\[0\]: three letters are bad luck\."
    ):
        served_pair({"one": Model(picky), "other": Model(picky)})


def test_a_row_that_one_refuses_is_a_difference():
    def picky(inputs):
        raise Refusal("no")

    result, _ = served_pair({"one": Model(), "other": Model(picky)})
    assert result.failed
    assert result.notes == ["other failed on 8 of 8 inputs, first on in.csv:2: no"]
    assert result.parity[0].n_rows == 0


def test_an_answer_under_load_that_cannot_be_read_is_noted_and_the_others_are_judged():
    agreement = Agreement(("A", "B"), ["row 0"], {"Y": Tolerance(0.0)})
    agreement.learn(0, {"Y": np.array([[1.0]])})

    def decode(name, answer):
        if answer == b"spoilt":
            raise ValueError("output Y: expected the values of shape [1], got 0")
        return {"Y": np.array([[2.0]])}

    check = LoadCheck(agreement, decode)
    for answer in (b"spoilt", b"good"):
        check.keep((0, answer))
    check.settle(Contender("B", [b""], [""], rows=[[0]]), "under load")
    assert check.unreadable == {"B": "output Y: expected the values of shape [1], got 0"}
    assert agreement.parities()[-1].beyond == {"under load": 1}
