"""Whether two models agree: made-up answers first, then models on a gRPC server."""

from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_models import PAIR, Model, Refusal, lengths, routed, served

from dualpath.compare import target
from dualpath.compare.inputs import Row
from dualpath.compare.parity import N_LATE, N_WORST, Tally, both, check
from dualpath.compare.result import Result
from dualpath.errors import UserError
from dualpath.readability.contract import ROUTE, SCORE
from dualpath.serving.client import connect

ATOL = 2e-5


def rows(n_rows):
    return [
        Row(
            f"in.csv:{number + 2}",
            {"excerpt": np.array([b"x" * (number + 1)], np.object_), "BERT_WEIGHT": np.ones(1, np.float32)},
        )
        for number in range(n_rows)
    ]


def compared(*pairs, atol=ATOL):
    tally = Tally("A", "B", "SCORE", atol)
    for number, (a, b) in enumerate(pairs):
        tally.add(f"row {number}", np.atleast_1d(np.array(a)), np.atleast_1d(np.array(b)))
    return tally.parity()


def result_of(answer_a, answer_b, n_rows, outputs=("SCORE",), **options):
    @asynccontextmanager
    async def connect():
        async def ask_a(row):
            return answer_a(row)

        async def ask_b(row):
            return answer_b(row)

        yield ask_a, ask_b

    result = Result("a pair", ["A", "B"], "", "")
    check(result, "B", rows(n_rows), connect, list(outputs), ATOL, **options)
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


def test_equal_answers_are_equal_to_the_bit():
    result = result_of(score, score, 20)
    [found] = result.parity
    assert (found.n_equal, found.largest, found.mean, found.worst, found.ok) == (20, 0, 0, (), True)
    assert not result.failed


def test_within_the_tolerance_is_good_and_still_shown():
    found = compared((1.0, 1.0 + 1e-5), (1.0, 1.0))
    assert found.ok
    assert found.n_equal == 1
    assert found.worst[0].difference == pytest.approx(1e-5)


def test_the_worst_rows_come_first_and_are_few():
    found = compared(*((0.0, number / 10) for number in range(20)))
    assert [row.where for row in found.worst] == [f"row {number}" for number in range(19, 19 - N_WORST, -1)]


@pytest.mark.parametrize(
    ("a", "b", "n_equal", "ok"),
    [
        (np.nan, np.nan, 1, True),
        (np.nan, 1.0, 0, False),
        (1.0, np.nan, 0, False),
        (np.inf, np.inf, 1, True),
        (np.inf, -np.inf, 0, False),
        (np.inf, 1.0, 0, False),
        (0.0, -0.0, 0, True),
    ],
)
def test_nan_and_infinity_agree_with_themselves_only(a, b, n_equal, ok):
    found = compared((1.0, 1.0), (a, b), (1.0, 1.0))
    assert (found.n_equal, found.ok) == (2 + n_equal, ok)
    if not ok:
        assert found.worst[0].where == "row 1"
        assert found.mean == 0  # of the other rows


def test_a_nan_of_other_bits_is_nan():
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    found = compared((quiet, other))
    assert (found.n_equal, found.ok, found.largest) == (0, True, 0)


def test_of_a_tensor_the_element_that_differs_most_is_named():
    found = compared(([1.0, 2.0, 3.0], [1.0, 2.5, 2.9]), atol=1.0)
    assert (found.worst[0].baseline, found.worst[0].other, found.largest) == (2.0, 2.5, 0.5)


def test_large_integers_are_told_apart():
    assert compared((2**62, 2**62 + 1), atol=0).largest == 1


def test_shapes_that_differ_do_not_agree():
    found = compared(([1.0, 2.0], [1.0]))
    assert not found.ok
    assert (found.worst[0].baseline, found.worst[0].other) == ("shape [2]", "shape [1]")


def test_texts_are_equal_or_not():
    def text(value):
        return np.array([value], np.object_)

    tally = Tally("A", "B", "ROUTE", ATOL)
    for number, (a, b) in enumerate([(b"bert", b"bert"), (b"bert", b"cuml")]):
        tally.add(f"row {number}", text(a), text(b))
    found = tally.parity()
    assert (found.n_equal, found.largest, found.mean, found.atol, found.ok) == (1, 1, 0.5, 0, False)
    assert (found.worst[0].where, found.worst[0].baseline, found.worst[0].other) == ("row 1", "bert", "cuml")


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1))
def test_any_answers_are_compared(pairs):
    found = compared(*((np.float32(a), np.float32(b)) for a, b in pairs))
    assert found.ok == all(a == b or (a != a and b != b) or abs(a - b) <= ATOL for a, b in pairs)
    assert 0 <= found.n_equal <= found.n_rows == len(pairs)
    assert len(found.worst) <= N_WORST


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

    @asynccontextmanager
    async def connect():
        async def ask(row):
            return interrupted(row)

        yield ask, ask

    with pytest.raises(KeyboardInterrupt):
        check(result, "B", rows(10), connect, ["SCORE"], ATOL)
    assert result.parity[0].n_rows == 4
    assert result.notes == ["Interrupted after 4 of 10 inputs."]
    assert not result.failed


def served_pair(models, n_rows=8):
    with served(models) as (url, servicer):
        client = connect(url)
        a, b = (target.read(client, name) for name in models)
        pair = target.pair(a, b)
        result = Result("a pair", list(models), "", "")
        try:
            check(
                result, b.name, rows(n_rows), lambda: both(url, a, b, pair, 5), [it.name for it in pair.outputs], ATOL
            )
        finally:
            client.close()
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


@pytest.mark.parametrize("max_batch_size", [512, 0])
def test_an_answer_without_an_output_is_a_failure(max_batch_size):
    result, _ = served_pair({"one": Model(max_batch_size=max_batch_size), "other": Model(lambda inputs: {})}, 2)
    failed = "other failed on 2 of 2 inputs, first on in.csv:2: no output SCORE in the answer"
    assert (result.failed, result.notes[-1]) == (True, failed)
    result, _ = served_pair({"one": Model(lambda inputs: {}, max_batch_size=max_batch_size), "other": Model()}, 2)
    assert result.notes[0] == "one failed on 2 of 2 inputs, first on in.csv:2: no output SCORE in the answer"


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
