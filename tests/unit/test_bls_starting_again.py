"""A run that is given up and starts again: nothing is asked twice, and what it took is counted."""

import time

import fake_triton
import numpy as np
import pytest
from bls_driver import PATIENCE_S, Gated, answer_to, answered_values, asking, merging, rows_of, serving

from dualpath.bls import BatchedChild, Child, Metrics, in_slices, together
from dualpath.bls.run import Memo


@pytest.fixture
def fast():
    """The child "fast", which answers at once, and counts its calls."""
    fake_triton.CHILDREN["fast"] = child = Gated(is_open=True)
    return child


def answered_again(gated, graph, **options):
    """Ask for [5, 6], of which the slow child makes the run start again, and return the answered values."""
    request = asking(5, 6)
    with serving(graph, **options) as server:
        server.execute(request).result(PATIENCE_S)
        gated.next_call().let_through()
        return answered_values(answer_to(request))


def test_a_run_that_starts_again_asks_nothing_twice(gated, fast):
    worked, counted = [], Metrics("m")
    quick, slow = Child("fast", "y", early_return=False), merging()

    def work(rows):
        worked.extend(rows)
        return rows

    async def graph(request):
        rows = await in_slices(work, [row.tobytes() for row in request.inputs["rows"]], 4)
        counted.count("rows", len(rows))
        first = await quick.call({"x": request.inputs["rows"]})
        return {"y": first + await slow.rows(rows_of(request))}

    assert answered_again(gated, graph, metrics=counted) == [10, 12]
    assert (len(worked), fast.n_calls, gated.n_calls) == (2, 1, 1)
    assert sum(fake_triton.METRICS["bls_rows_total"].values()) == 2


def test_a_run_that_starts_again_is_given_what_was_found_out_and_not_what_the_graph_made_of_it(gated, fast):
    quick, several, slow = Child("fast", "y", early_return=False), merging("fast", early_return=False), merging()

    async def graph(request):
        rows = request.inputs["rows"].copy()
        sliced = await in_slices(lambda rows: [row + 1 for row in rows], list(rows), 4)
        called = await quick.call({"x": rows})
        asked = await several.rows(rows)
        for array in (*sliced, called, asked, rows):  # arrays are free to be written to
            array += 100
        return {"y": called + await slow.rows(rows_of(request)) + asked}

    assert answered_again(gated, graph) == [215, 218]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_call_that_began_before_the_run_was_given_up_is_not_made_again(gated, fast, is_first):
    quick, slow = Child("fast", "y", early_return=False), merging()

    async def graph(request):
        both = [quick.call({"x": request.inputs["rows"]}), slow.rows(rows_of(request))]
        answers = await together(*(both if is_first else both[::-1]))
        return {"y": answers[0] + answers[1]}

    assert answered_again(gated, graph) == [10, 12]
    assert (fast.n_calls, gated.n_calls) == (1, 1)


def test_what_a_branch_would_ask_next_is_asked_once_the_run_has_started_again(gated, fast):
    quick, slow = Child("fast", "y", early_return=False), merging()

    async def branch(inputs):
        first = await quick.call(inputs)
        [second] = await together(quick.call(inputs))
        return first + second

    async def graph(request):
        answers = await together(branch({"x": request.inputs["rows"]}), slow.rows(rows_of(request)))
        return {"y": answers[0] + answers[1]}

    assert answered_again(gated, graph) == [15, 18]
    assert (fast.n_calls, gated.n_calls) == (2, 1)


def test_a_child_works_while_the_others_of_a_run_prepare_their_calls(gated, fast):
    first, second = (merging(name, early_return=False) for name in ("child", "fast"))

    async def prepared(request):
        gated.next_call().let_through()  # which waits for the call of the first child
        return await second.rows(rows_of(request))

    async def graph(request):
        one, other = await together(first.rows(rows_of(request)), prepared(request))
        return {"y": one + other}

    with serving(graph) as server:
        request = asking(5, 6)
        server.execute(request).result(PATIENCE_S)
        assert answered_values(answer_to(request)) == [10, 12]


def texts(*values):
    return np.array([value.encode() for value in values], object)


@pytest.mark.parametrize(
    ("inputs_of", "rows_of_texts"),
    [
        (lambda x: {"x": x, "text": texts(*"ab")}, lambda x: [{"x": row, "text": texts("a", "é")} for row in x]),
        (lambda x: {"x": x, "left_out": None}, lambda x: [{"x": row, "flag": np.bool_(True)} for row in x]),
    ],
    ids=["texts", "optional"],
)
def test_what_was_found_out_for_texts_and_for_inputs_by_name_is_not_asked_again(gated, fast, inputs_of, rows_of_texts):
    quick, several = Child("fast", "y", early_return=False), BatchedChild("fast", "y", early_return=False)
    slow = merging()

    async def graph(request):
        x = request.inputs["rows"]
        called = await quick.call(inputs_of(x))
        asked = await several.rows(rows_of_texts(x))
        return {"y": called + asked + await slow.rows(rows_of(request))}

    assert answered_again(gated, graph) == [15, 18]
    assert (fast.n_calls, gated.n_calls) == (2, 1)


@pytest.mark.parametrize(
    ("row", "other"),
    [
        (b"a", "a"),
        (1, True),
        (0.0, -0.0),
        (np.float32(1), np.float64(1)),
        (np.zeros(2, np.int32), np.zeros(2, np.uint32)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (texts("ab", "c"), texts("a", "bc")),
        (texts("ab"), np.array(["ab"], object)),
        ({"x": b"a"}, {"y": b"a"}),
        ((b"a", b"b"), (b"ab",)),
        ({"x": None}, {"x": b"None"}),
    ],
    ids=repr,
)
def test_only_rows_of_equal_contents_are_the_same(row, other):
    for kept, asked, expected in ((row, row, ["answer"]), (row, other, None), (other, row, None)):
        memo = Memo()
        memo.note("child", [kept], ["answer"])
        memo.give_up(SHORT_RUN)
        assert memo.recall("child", [asked]) == expected


class SHORT_RUN:
    """A run that has counted nothing."""

    notes, spent_s = (), {}


def test_stages_and_requests_that_start_again_count_all_their_time(gated, fast, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    metrics = Metrics("m")
    quick, slow = merging("fast", early_return=False, metrics=metrics), merging(metrics=metrics)

    def work(rows):
        clock[0] += 4
        return rows

    async def graph(request):
        with metrics.stage("work"):
            rows = await in_slices(work, [row.tobytes() for row in request.inputs["rows"]], 4)
        await quick.rows([np.frombuffer(row, np.int64) for row in rows])
        return {"y": await slow.rows(rows_of(request))}

    request = asking(5, 6)
    with serving(graph, metrics=metrics) as server:
        server.execute(request).result(PATIENCE_S)
        gated.next_call().let_through()
        answer_to(request)
    seconds = {dict(labels)["stage"]: s for labels, s in fake_triton.METRICS["bls_stage_seconds_sum"].items()}
    counts = {dict(labels)["stage"]: n for labels, n in fake_triton.METRICS["bls_stage_seconds_count"].items()}
    assert counts == {"work": 1, "fast": 1, "child": 1, "request": 1}
    assert seconds == {"work": 4, "fast": 0, "child": 0, "request": 4}
