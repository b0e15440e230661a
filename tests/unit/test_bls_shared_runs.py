"""Requests that share a run: one call for all, each its own rows and errors; what was found out is not asked again."""

import fake_triton
import numpy as np
import pytest
from bls_driver import (
    PATIENCE_S,
    Gated,
    answer_to,
    answered_values,
    asking,
    error_of,
    merging,
    model_config,
    passing_on,
    rows_of,
    serving,
)
from fake_triton import TritonError

from dualpath.bls import (
    BatchedChild,
    ConfigError,
    Metrics,
    Pipeline,
    Retry,
    current_request,
    route,
    together,
    tolerate,
)


@pytest.fixture
def fast():
    """The child "fast", which answers at once, and counts its calls."""
    fake_triton.CHILDREN["fast"] = child = Gated(is_open=True)
    return child


def test_requests_that_arrive_together_share_one_run_and_one_call(fast):
    runs = []
    child = merging("fast", early_return=False)

    async def graph(request):
        runs.append(request.n_rows)
        return {"y": await child.rows(rows_of(request))}

    with serving(graph) as server:
        answers = server.ask(asking(1, 2), asking(3), asking(4))
    assert [answered_values(answer) for answer in answers] == [[1, 2], [3], [4]]
    assert (runs, fast.n_calls) == ([4], 1)


@pytest.mark.parametrize("different", [{"parameters": {"a": 1}}, {"length": 3}, {"outputs": ("y", "z")}])
def test_requests_that_differ_do_not_share_a_run(different):
    runs = []

    async def graph(request):
        runs.append(request.n_rows)
        return {"y": request.inputs["rows"][:, :1]}

    other = asking(3, **different)
    if "length" in different:
        other.arrays["rows"] = np.array([[3, 3, 3]])
    with serving(graph) as server:
        answers = server.ask(asking(1, 2), other, asking(4))
    assert [answered_values(answer) for answer in answers] == [[1, 2], [3], [4]]
    assert runs == [3, 1]


def test_a_bad_row_fails_its_own_request_and_the_others_share_runs_on():
    runs = []

    async def graph(request):
        values = request.inputs["rows"][:, 0]
        runs.append(len(values))
        if (values < 0).any():
            raise ValueError(f"row {int((values < 0).argmax())} is bad")
        return {"y": values[:, None]}

    with serving(graph, caller_errors=(ValueError,)) as server:
        answers = server.ask(*map(asking, range(7)), asking(1, -1))
    assert [answered_values(answer) for answer in answers[:7]] == [[value] for value in range(7)]
    assert error_of(answers[7]) == (TritonError.INVALID_ARG, "row 1 is bad")  # counted in its own request
    assert runs == [9, 4, 5, 2, 3, 1, 2]


def test_only_requests_with_rows_for_a_slow_child_wait_for_it(gated, fast):
    slow, quick = merging(), merging("fast", early_return=False)

    async def graph(request):
        rows = rows_of(request)
        needs_slow = request.inputs["rows"][:, 0] >= 10
        first, second = await together(
            route(rows, needs_slow, slow.rows, fill=np.zeros(1, np.float32)), quick.rows(rows)
        )
        return {"y": first + second}

    light, heavy = asking(1, 2), asking(3, 14)
    with serving(graph) as server:
        server.execute(light, heavy).result(PATIENCE_S)
        assert answered_values(light.answers[0]) == [1, 2]
        assert (light.has_sender, heavy.has_sender) == (False, True)
        gated.next_call().let_through()
        assert answered_values(answer_to(heavy)) == [3, 28]


def test_together_of_nothing_is_nothing():
    async def graph(request):
        assert await together() == []
        return {"y": request.inputs["rows"][:, :1]}

    with serving(graph) as server:
        assert answered_values(server.ask(asking(1))[0]) == [1]


@pytest.mark.parametrize("early_return", [True, False])
def test_a_metric_that_cannot_be_counted_costs_neither_an_answer_nor_other_metrics(fast, early_return):
    counted, child = Metrics("m"), merging("fast", early_return=early_return)

    async def graph(request):
        answers = await child.rows(rows_of(request))
        counted.count("rows", label=["a list"])
        counted.count("rows")
        return {"y": answers}

    with serving(graph) as server:
        assert answered_values(server.ask(asking(1))[0]) == [1]
    counted.close()
    assert sum(fake_triton.METRICS["bls_rows_total"].values()) == 1


def test_an_unavailable_child_is_asked_once_for_requests_that_arrived_together():
    calls = []

    def full(inputs):
        calls.append(len(inputs["x"]))
        raise RuntimeError("Exceeds maximum queue size")

    fake_triton.CHILDREN["full"] = full
    child = merging("full", early_return=False)

    async def graph(request):
        return {
            "y": await route(
                rows_of(request), request.inputs["rows"][:, 0] > 0, child.rows, fill=np.zeros(1, np.float32)
            )
        }

    with serving(graph) as server:
        *refused, answered = server.ask(asking(1), asking(2), asking(0))
    assert [error_of(answer) for answer in refused] == [
        (TritonError.UNAVAILABLE, "full: Exceeds maximum queue size")
    ] * 2
    assert answered_values(answered) == [0]
    assert calls == [2]


@pytest.mark.parametrize("early_return", [True, False])
def test_a_call_is_made_again_as_often_as_said_for_the_errors_that_are_named(early_return):
    outcomes = []

    def answer(inputs):
        outcomes.append(len(outcomes))
        if len(outcomes) < 3:
            raise RuntimeError("Exceeds maximum queue size")
        return {"y": inputs["x"][:, :1]}

    fake_triton.CHILDREN["child"] = answer
    for times, expected in ((2, [1]), (1, None)):
        outcomes.clear()
        child = merging(early_return=early_return, retry=Retry(times, on=("unavailable",), delay_s=0))
        with serving(passing_on(child)) as server:
            [response] = server.ask(asking(1))
        assert (None if response.has_error() else answered_values(response)) == expected
        assert len(outcomes) == times + 1


def test_a_child_gets_its_requests_ids_the_longest_remaining_time_and_forwarded_parameters():
    fake_triton.CHILDREN["child"] = Gated(is_open=True)
    child = merging(early_return=False, forward_parameters=("language",))
    given = {"language": "de", "secret": "x"}
    with serving(passing_on(child)) as server:
        server.ask(asking(1, id="a", timeout_us=50_000_000, parameters=given), asking(2, id="b", parameters=given))
        server.ask(asking(3, id="c", timeout_us=60_000_000))
    merged, alone = fake_triton.CALLS
    assert (merged.request_id, merged.timeout, merged.parameters) == ("a,b", 0, {"language": "de"})
    assert (alone.request_id, 0 < alone.timeout <= 60_000_000, alone.parameters) == ("c", True, {})


def test_the_current_request_is_found_anywhere_below_the_graph():
    async def below():
        return current_request().parameters["number"]

    async def graph(request):
        numbers = await together(below(), below())
        return {"y": request.inputs["rows"][:, :1] + sum(numbers)}

    with serving(graph) as server:
        answers = server.ask(asking(1, parameters={"number": 1}), asking(1, parameters={"number": 10}))
    assert [answered_values(answer) for answer in answers] == [[3], [21]]
    with pytest.raises(RuntimeError, match="expected code that a Pipeline's graph calls"):
        current_request()


def test_a_child_of_several_outputs_gives_them_by_name_whatever_their_dtypes():
    def answer(inputs):
        x = inputs["x"]
        names = np.array([[f"n{value}".encode()] for value in x[:, 0]], object)
        return {"name": names, "even": x[:, 0] % 2 == 0, "box": np.stack([x, x], 2).astype(np.float16)}

    fake_triton.CHILDREN["child"] = answer
    fill = {"name": np.array([b"-"], object), "even": False, "box": np.zeros((2, 2), np.float16)}
    for early_return in (True, False):
        child = BatchedChild(
            "child", ("name", "even", "box"), lambda rows: {"x": np.stack(rows)}, early_return=early_return
        )

        async def graph(request, child=child):
            rows = list(request.inputs["rows"])
            return await route(rows, request.inputs["rows"][:, 0] > 0, child.rows, fill=fill)

        with serving(graph) as server:
            first, second = server.ask(asking(4, 0), asking(0))
        arrays = first.arrays()
        assert arrays["name"].tolist() == [[b"n4"], [b"-"]]
        assert arrays["even"].tolist() == [True, False]
        assert arrays["box"].dtype == np.float16
        assert arrays["box"].tolist() == [[[4, 4], [2, 2]], [[0, 0], [0, 0]]]
        assert second.arrays()["even"].tolist() == [False]


@pytest.mark.parametrize(
    ("answer", "fill", "words"),
    [
        (np.zeros((1, 2)), 0.0, "expected the shape of an answer's row, [2], got []"),
        (np.zeros(1, np.int64), float("nan"), "expected int64, as the answer, got nan"),
        (np.zeros(1, np.float64), np.float32(0), "expected float64, as the answer"),
        ({"a": np.zeros(1)}, 0.0, "expected a value for each of a, got 0.0"),
        (np.zeros(1), {"a": 0.0}, "expected one value, as the answer is one array, got a"),
    ],
)
def test_a_fill_that_cannot_stand_beside_answers_is_refused(answer, fill, words):
    async def ask(rows):
        return answer

    async def graph(request):
        return {"y": await route(rows_of(request), request.inputs["rows"][:, 0] > 0, ask, fill=fill)}

    with serving(graph) as server:
        [response] = server.ask(asking(1, 0))
    assert words in error_of(response)[1]


def test_what_a_pipeline_cannot_do_is_refused_by_name():
    async def answers_once(request):
        return {}

    async def answers_often(request):
        yield {}

    with pytest.raises(ConfigError, match="m: expected no sequence_batching, as a Pipeline keeps no state"):
        Pipeline(answers_once, model_config(sequence_batching={}))
    with pytest.raises(ConfigError, match=r"decoupled: false \}, as the graph returns its answers, got true"):
        Pipeline(answers_once, model_config(decoupled=True))
    with pytest.raises(ConfigError, match=r"decoupled: true \}, as the graph yields its answers, got false"):
        Pipeline(answers_often, model_config())


def test_a_model_without_a_batch_dimension_gets_each_request_whole():
    runs = []

    async def graph(request):
        runs.append((request.n_rows, request.inputs["rows"].shape))
        return {"y": request.inputs["rows"].sum(keepdims=True)}

    from bls_driver import Server

    server = Server(graph)
    server._pipeline.close()
    server._pipeline = Pipeline(graph, model_config(max_batch_size=0))
    answers = server.ask(asking(1, 2), asking(3))
    server.stop()
    assert runs == [(1, (2, 2)), (1, (1, 2))]
    assert [answer.arrays()["y"].tolist() for answer in answers] == [[[7]], [[5]]]


def test_a_tolerated_child_of_a_shared_run_leaves_all_its_requests_their_answers():
    fake_triton.CHILDREN["child"] = lambda inputs: 1 / 0
    child = merging(early_return=False)

    async def graph(request):
        _, missed = await tolerate(child.rows(rows_of(request)), failed=True)
        return {"y": np.full((request.n_rows, 1), missed, object)}

    with serving(graph) as server:
        answers = server.ask(asking(1), asking(2))
    assert [answered_values(answer) for answer in answers] == [["failed"], ["failed"]]
