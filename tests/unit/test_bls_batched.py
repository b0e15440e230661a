"""Merge while busy: who waits, who leaves with whom, and that every answer finds its own request."""

import threading
import time

import fake_triton
import numpy as np
from bls_driver import (
    PATIENCE_S,
    PAUSE_S,
    Gated,
    answer_to,
    answered_values,
    asking,
    error_of,
    execute,
    merging,
    passing_on,
    rows_of,
    serving,
    values,
)
from fake_triton import TritonError
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.bls import Metrics, together
from dualpath.bls import calls as calls_module
from dualpath.bls.waiting import WINDOW_CHUNKS


def test_an_idle_child_gets_its_rows_at_once(gated):
    with serving(passing_on(merging())) as server:
        execute(server, asking(1, 2))
        assert values(gated.next_call()) == [1, 2]


def test_requests_that_arrive_together_leave_together(gated):
    with serving(passing_on(merging())) as server:
        execute(server, asking(1, 2), asking(3), asking(4))
        assert values(gated.next_call()) == [1, 2, 3, 4]


def test_rows_that_arrive_while_the_child_is_busy_leave_together_when_a_call_returns(gated):
    requests = [asking(1), asking(2, 3), asking(4)]
    with serving(passing_on(merging())) as server:
        for request in requests:
            execute(server, request)
        first = gated.next_call()
        assert values(first) == [1]
        assert gated.n_calls == 1
        first.let_through()
        second = gated.next_call()
        assert values(second) == [2, 3, 4]
        second.let_through()
        assert [answered_values(answer_to(request)) for request in requests] == [[1], [2, 3], [4]]


def test_as_many_calls_are_in_flight_as_allowed_and_no_more(gated):
    with serving(passing_on(merging(in_flight=2, chunk_rows=2))) as server:
        execute(server, asking(1, 2, 3, 4, 5))
        first, second = gated.next_call(), gated.next_call()
        assert sorted(values(first) + values(second)) == [1, 2, 3, 4]
        time.sleep(PAUSE_S)
        assert gated.n_calls == 2
        second.let_through()
        assert values(gated.next_call()) == [5]
        first.let_through()


def test_a_chunk_holds_its_rows_at_most_and_is_sorted_by_length(gated):
    with serving(passing_on(merging(chunk_rows=3))) as server:
        execute(server, asking((1, 9), (2, 3), (3, 5)))
        assert values(gated.next_call()) == [2, 3, 1]


def test_a_chunk_is_the_oldest_row_and_those_nearest_to_its_length(gated):
    with serving(passing_on(merging(chunk_rows=2))) as server:
        execute(server, asking(0))
        execute(server, asking((1, 20), (2, 5), (3, 18), (4, 6), (5, 40)))
        chunks = []
        for _ in range(4):
            call = gated.next_call()
            chunks.append(values(call))
            call.let_through()
    assert chunks == [[0], [3, 1], [2, 4], [5]]


def test_the_oldest_row_leaves_next_however_many_are_nearer_to_each_other(gated):
    flood = 3
    with serving(passing_on(merging(chunk_rows=2))) as server:
        execute(server, asking(*[0] * 2))
        execute(server, asking((-1, 100)), asking(*range(1, 1 + 2 * flood)))
        gated.next_call().let_through()
        assert -1 in values(gated.next_call())


def test_rows_leave_no_later_than_those_before_them_allow(gated):
    """A long row among a flood of short ones waits for the rows before it, never for those behind it."""
    chunk_rows = 2
    with serving(passing_on(merging(chunk_rows=chunk_rows))) as server:
        execute(server, asking(0))
        execute(server, asking(1, 2, (99, 50)))
        n_before = 3
        for place in range(20):
            execute(server, asking(100 + place))
            call = gated.next_call()
            call.let_through()
            if 99 in values(call):
                break
        assert place <= n_before


def test_a_request_larger_than_a_chunk_comes_back_in_order(gated):
    gated.open()
    ids = list(np.random.default_rng(0).permutation(70))
    with serving(passing_on(merging(in_flight=3, chunk_rows=4))) as server:
        [response] = server.ask(asking(*[(value, 2 + value % 7) for value in ids]))
    assert answered_values(response) == ids


def test_small_requests_get_their_turn_beside_a_large_one_and_the_other_way_round(gated):
    large, small = asking(*range(100, 130)), asking(1)
    with serving(passing_on(merging(chunk_rows=4))) as server:
        execute(server, large)
        execute(server, small)
        gated.open()
        assert answered_values(answer_to(small)) == [1]
        assert answered_values(answer_to(large)) == list(range(100, 130))


def test_a_merged_call_is_a_step_of_its_first_request_that_asks_for_it(gated):
    gated.open()
    traced = {"parameters": {"trace_children": True}}
    with serving(passing_on(merging())) as server:
        server.ask(asking(1, trace="unasked"), asking(2, trace="mine", **traced), asking(3, trace="third", **traced))
    assert [call.trace for call in fake_triton.CALLS if call.trace] == ["mine"]


def test_calls_of_one_request_to_two_children_run_at_once(gated):
    fake_triton.CHILDREN["other"] = other = Gated()
    first, second = merging(), merging("other", early_return=False)

    async def handle(request):
        rows = rows_of(request)
        answers = await together(first.rows(rows), second.rows(rows))
        return {"y": sum(answers)}

    request = asking(1)
    with serving(handle) as server:
        execute(server, request)
        calls = gated.next_call(), other.next_call()
        for call in calls:
            call.let_through()
        assert answered_values(answer_to(request)) == [2]


def test_a_child_not_known_to_be_slow_or_fast_counts_as_slow_until_its_calls_are_short(monkeypatch):
    monkeypatch.setattr(calls_module, "SLOW_S", PATIENCE_S)
    fake_triton.CHILDREN["child"] = Gated(is_open=True)
    first, second = asking(1), asking(2)
    with serving(passing_on(merging(early_return=None))) as server:
        server.ask(first)
        server.ask(second)
    assert (first.has_sender, second.has_sender) == (True, False)


def test_a_child_whose_calls_are_long_stays_slow(monkeypatch):
    monkeypatch.setattr(calls_module, "SLOW_S", 0)
    fake_triton.CHILDREN["child"] = Gated(is_open=True)
    requests = [asking(1), asking(2)]
    with serving(passing_on(merging(early_return=None))) as server:
        for request in requests:
            server.ask(request)
    assert all(request.has_sender for request in requests)


def test_chunks_and_waits_are_measured():
    fake_triton.CHILDREN["child"] = Gated(is_open=True)
    metrics = Metrics("m")
    with serving(passing_on(merging(chunk_rows=2, metrics=metrics)), metrics=metrics) as server:
        server.ask(asking(1, 2, 3))
    child = (("child", "child"), ("model", "m"))
    assert fake_triton.METRICS["bls_chunk_rows_count"][child] == 2
    assert fake_triton.METRICS["bls_chunk_rows_sum"][child] == 3
    stages = {dict(labels)["stage"]: n for labels, n in fake_triton.METRICS["bls_stage_seconds_count"].items()}
    assert stages == {"child": 1, "request": 1}


row = st.tuples(st.booleans(), st.integers(2, 12))
requests = st.lists(st.lists(row, min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=60)
@given(requests, st.integers(1, 3), st.integers(1, 5), st.sampled_from([True, False, None]), st.data())
def test_every_row_gets_its_own_answer_and_poison_stays_with_its_request(
    asked, in_flight, chunk_rows, early_return, data
):
    fake_triton.reset()
    lock, in_calls, most_in_calls, sizes = threading.Lock(), 0, 0, []

    def answer(inputs):
        nonlocal in_calls, most_in_calls
        with lock:
            in_calls += 1
            most_in_calls = max(most_in_calls, in_calls)
            sizes.append(len(inputs["x"]))
        try:
            if (inputs["x"][:, 0] < 0).any():
                raise RuntimeError("poisoned")
            lengths = inputs["x"][:, 1]
            if early_return:  # what goes in one call at once needs no sorting
                assert lengths.tolist() == sorted(lengths)
            return {"y": inputs["x"][:, :1] * 10}
        finally:
            with lock:
                in_calls -= 1

    fake_triton.CHILDREN["child"] = answer
    numbers = iter(range(1, 10_000))
    poisons = data.draw(st.sets(st.integers(0, len(asked) - 1), max_size=2))
    received, expected = [], []
    for place, rows in enumerate(asked):
        signs = [-1 if place in poisons and is_poison else 1 for is_poison, _ in rows]
        pairs = [(sign * next(numbers), length) for sign, (_, length) in zip(signs, rows, strict=True)]
        received.append(asking(*pairs))
        expected.append(None if -1 in signs else [value * 10 for value, _ in pairs])
    splits = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    child = merging(in_flight=in_flight, chunk_rows=chunk_rows, early_return=early_return)
    with serving(passing_on(child)) as server:
        start = 0
        while start < len(received):
            step = splits[start % len(splits)]
            server.execute(*received[start : start + step])
            start += step
        for request, values_ in zip(received, expected, strict=True):
            response = answer_to(request)
            if values_ is None:
                assert error_of(response) == (TritonError.INTERNAL, "child: poisoned")
            else:
                assert answered_values(response) == values_
    assert most_in_calls <= in_flight
    assert max(sizes) <= chunk_rows
    assert fake_triton.LOGGED == []


lengths = st.lists(st.integers(2, 30), min_size=1, max_size=40)


@given(lengths, st.integers(1, 6))
def test_chunks_start_with_the_oldest_hold_its_nearest_of_the_window_and_lose_no_row(row_lengths, chunk_rows):
    fake_triton.reset()
    chunks = []

    def answer(inputs):
        chunks.append(inputs["x"][:, :2].tolist())
        return {"y": inputs["x"][:, :1]}

    fake_triton.CHILDREN["child"] = answer
    with serving(passing_on(merging(chunk_rows=chunk_rows))) as server:
        server.ask(asking(*enumerate(row_lengths)))

    waiting = [[value, length] for value, length in enumerate(row_lengths)]
    for chunk in chunks:
        oldest, window = waiting[0], waiting[: WINDOW_CHUNKS * chunk_rows]
        assert oldest in chunk
        assert len(chunk) == min(chunk_rows, len(waiting))
        distances = sorted(abs(length - oldest[1]) for _, length in window)
        assert sorted(abs(length - oldest[1]) for _, length in chunk) == distances[: len(chunk)]
        assert [length for _, length in chunk] == sorted(length for _, length in chunk)
        assert all(row in window for row in chunk)
        waiting = [row for row in waiting if row not in chunk]
    assert waiting == []


def test_a_row_that_comes_while_another_is_in_a_call_gets_the_idle_instance(gated):
    with serving(passing_on(merging(in_flight=2))) as server:
        first, second = asking(1), asking(2)
        server.execute(first).result(PATIENCE_S)
        gated.next_call()
        server.execute(second).result(PATIENCE_S)
        assert values(gated.next_call()) == [2]
        gated.open()
        assert [answered_values(answer_to(request)) for request in (first, second)] == [[1], [2]]


def test_many_rows_of_a_fast_child_are_answered_later(gated):
    gated.open()
    child = merging(early_return=None, chunk_rows=16)
    child._pace.note(1, calls_module.SLOW_S / 4)
    child._pace.note(10, calls_module.SLOW_S * 4)  # measured: a row is fast, many are not
    few, many = asking(1, 2), asking(*range(10))
    with serving(passing_on(child)) as server:
        server.ask(few)
        server.ask(many)
    assert not few.has_sender
    assert many.has_sender
