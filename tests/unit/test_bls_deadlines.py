"""Requests whose time is over, or whose caller has gone, start no further child and leave the queue."""

import asyncio
import time
from collections import deque

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
    passing_on,
    rows_of,
    serving,
    values,
)
from fake_triton import ReceivedRequest, TritonError

from dualpath.bls import Metrics, batched, route, together, tolerate, waiting
from dualpath.bls.request import Arrival, Request

SOON_US = 20_000
LATE = (TritonError.UNAVAILABLE, "child: expected an answer within the request's timeout, got none.")
GONE = (TritonError.CANCELLED, "the caller cancelled the request.")


@pytest.fixture
def always_ask(monkeypatch):
    """Have rows ask whether their caller is still there, however short they have waited."""
    monkeypatch.setattr(waiting, "ASK_AFTER_S", -1)


def execute(server, *requests):
    server.execute(*requests).result(PATIENCE_S)


def test_a_deadline_is_the_callers_timeout_counted_from_execute():
    before = time.monotonic()
    request = Request([Arrival(ReceivedRequest({"x": np.zeros(1)}, timeout_us=2_000_000), has_batch=True)])
    assert before + 2 <= request.deadline <= time.monotonic() + 2


def test_a_request_without_a_timeout_has_no_deadline():
    assert Request([Arrival(ReceivedRequest({"x": np.zeros(1)}), has_batch=True)]).deadline is None


def test_a_timeout_beyond_what_clocks_take_is_one_of_a_year(gated):
    request = asking(1, timeout_us=2**63 - 1)
    assert 364 * 86400 < Request([Arrival(request, has_batch=True)]).remaining_s() <= 365 * 86400
    with serving(passing_on(merging())) as server:
        execute(server, request)
        gated.next_call().let_through()
        assert answered_values(answer_to(request)) == [1]


def test_a_late_child_answers_its_request_with_child_late(gated):
    request = asking(1, timeout_us=SOON_US)
    with serving(passing_on(merging())) as server:
        execute(server, request)
        call = gated.next_call()
        assert error_of(answer_to(request)) == LATE
        call.let_through()
    assert fake_triton.LOGGED == []


def test_a_child_in_time_answers(gated):
    gated.open()
    with serving(passing_on(merging())) as server:
        [response] = server.ask(asking(1, timeout_us=60_000_000))
    assert answered_values(response) == [1]


def test_rows_that_expire_while_they_wait_leave_the_queue_and_start_no_call(gated):
    busy, expiring, patient = asking(1), asking(2, 3, timeout_us=SOON_US), asking(4)
    with serving(passing_on(merging())) as server:
        for request in (busy, expiring, patient):
            execute(server, request)
        first = gated.next_call()
        assert error_of(answer_to(expiring)) == LATE
        first.let_through()
        second = gated.next_call()
        assert values(second) == [4]
        second.let_through()
        assert answered_values(answer_to(patient)) == [4]
    assert gated.n_calls == 2


def test_a_request_that_has_expired_when_it_asks_starts_no_call(gated):
    child = merging()

    async def handle(request):
        request.deadline = time.monotonic() - 1  # as after long work before the child
        return {"y": await child.rows(rows_of(request))}

    with serving(handle) as server:
        [response] = server.ask(asking(1))
    assert error_of(response) == LATE
    assert gated.n_calls == 0


def test_a_call_that_comes_back_late_frees_the_child(gated):
    late = asking(1, timeout_us=SOON_US)
    with serving(passing_on(merging())) as server:
        execute(server, late)
        call = gated.next_call()
        answer_to(late)
        call.let_through()
        gated.open()
        assert answered_values(*server.ask(asking(2))) == [2]


def test_the_retry_of_a_failed_chunk_leaves_out_what_has_expired(gated):
    patient, expiring = asking(1), asking(2, timeout_us=SOON_US)
    with serving(passing_on(merging())) as server:
        execute(server, patient, expiring)
        call = gated.next_call()
        assert error_of(answer_to(expiring)) == LATE
        call.let_through(error="poisoned")
        retry = gated.next_call()
        assert values(retry) == [1]
        retry.let_through()
        assert answered_values(answer_to(patient)) == [1]
    assert gated.n_calls == 2


def test_a_late_child_can_be_done_without(gated):
    child = merging()

    async def handle(request):
        answer, missed = await tolerate(child.rows(rows_of(request)), late=True)
        return {"y": np.array([[missed or answer[0, 0]]], object)}

    request = asking(1, timeout_us=SOON_US)
    with serving(handle) as server:
        execute(server, request)
        assert answered_values(answer_to(request)) == ["late"]


def test_late_children_are_counted(gated):
    metrics = Metrics("m")
    request = asking(1, timeout_us=SOON_US)
    with serving(passing_on(merging(metrics=metrics)), metrics=metrics) as server:
        execute(server, request)
        answer_to(request)
    counted = {dict(labels)["outcome"]: value for labels, value in fake_triton.METRICS["bls_calls_total"].items()}
    assert counted["late"] == 1


def test_close_does_not_forget_a_call_whose_requests_have_gone(gated):
    """Its task must not be destroyed pending: `serving` holds asyncio to silence."""
    request = asking(1, timeout_us=SOON_US)
    with serving(passing_on(merging())) as server:
        execute(server, request)
        call = gated.next_call()
        answer_to(request)
        closed = server.close()
        call.let_through()
        closed.result(PATIENCE_S)


@pytest.mark.usefixtures("always_ask")
def test_rows_of_a_caller_who_has_gone_leave_the_queue_and_start_no_call(gated):
    busy, gone, waiting = asking(1), asking(2, 3), asking(4)
    with serving(passing_on(merging())) as server:
        for request in (busy, gone, waiting):
            execute(server, request)
        first = gated.next_call()
        gone.is_cancelled_by_caller = True
        first.let_through()
        second = gated.next_call()
        assert values(second) == [4]
        assert error_of(answer_to(gone)) == GONE
        second.let_through()
        assert answered_values(answer_to(waiting)) == [4]
    assert gated.n_calls == 2


@pytest.mark.usefixtures("always_ask")
def test_when_all_callers_of_a_chunk_have_gone_the_next_chunk_leaves(gated):
    busy, gone, waiting = asking(1), asking(2, 3), asking(4)
    with serving(passing_on(merging(chunk_rows=2))) as server:
        for request in (busy, gone, waiting):
            execute(server, request)
        first = gated.next_call()
        gone.is_cancelled_by_caller = True
        first.let_through()
        assert values(gated.next_call()) == [4]
        assert error_of(answer_to(gone)) == GONE


def test_only_rows_that_have_waited_ask_whether_their_caller_is_there(gated, monkeypatch):
    monkeypatch.setattr(waiting, "ASK_AFTER_S", PATIENCE_S)
    gated.open()
    request = asking(1)
    with serving(passing_on(merging())) as server:
        server.ask(request)
    assert not request.asked.is_set()


@pytest.mark.usefixtures("always_ask")
def test_a_question_about_the_caller_that_fails_fails_its_request_alone_and_frees_the_child(gated):
    def fail():
        raise fake_triton.TritonModelException("no answer")

    gated.open()
    request = asking(1)
    request.is_cancelled = fail
    with serving(passing_on(merging())) as server:
        failed, answered = server.ask(request, asking(2))
        assert error_of(failed) == (TritonError.INTERNAL, "TritonModelException: no answer")
        assert answered_values(answered) == [2]
        assert answered_values(*server.ask(asking(3))) == [3]


@pytest.mark.parametrize("early_return", [True, False])
def test_triton_is_never_asked_about_a_request_after_its_answer(gated, early_return):
    gated.open()
    child, asked = merging(early_return=early_return), []

    async def ask_later(request):
        while not request_received.answered.is_set():
            await asyncio.sleep(0.001)
        asked.append(await request.is_cancelled())

    async def handle(request):
        await asyncio.sleep(0)  # so that it runs on the event loop
        if not tasks:
            tasks.append(asyncio.ensure_future(ask_later(request)))
        return {"y": await child.rows(rows_of(request))}

    tasks, request_received = [], asking(1)
    with serving(handle) as server:
        server.ask(request_received)
        deadline = time.monotonic() + PATIENCE_S
        while not asked and time.monotonic() < deadline:  # what is left over goes on beside other requests
            server.ask(asking(2))
    assert asked == [True]
    assert not request_received.asked.is_set()


def test_a_handler_may_ask_whether_its_caller_is_there():
    async def handle(request):
        return {"y": np.array([[await request.is_cancelled()]])}

    there, gone = asking(1), asking(2)
    gone.is_cancelled_by_caller = True
    with serving(handle) as server:
        responses = server.ask(there, gone)
    assert [answered_values(response) for response in responses] == [[False], [True]]


def test_a_late_answer_is_no_answer_to_the_next_question(gated):
    """Each `rows` has an answer of its own: one that came too late is nobody's."""
    child = merging()

    async def handle(request):
        first, missed = await tolerate(child.rows(rows_of(request)), late=True)
        assert first is None
        assert missed == "late"
        request.deadline = None
        return {"y": await child.rows([row + 100 for row in rows_of(request)])}

    request = asking(1, timeout_us=SOON_US)
    with serving(handle) as server:
        execute(server, request)
        first = gated.next_call()
        time.sleep(2 * SOON_US / 1e6)
        first.let_through()
        second = gated.next_call()
        assert values(second) == [101]
        second.let_through()
        assert answered_values(answer_to(request)) == [101]


@pytest.fixture
def slow_rows(gated):
    """A child that is known to take a second for a row, with 7 rows that wait for it."""
    child = merging(chunk_rows=1, max_wait_s=10)
    child._row_s = 1.0
    with serving(passing_on(child)) as server:
        execute(server, asking(*range(8)))
        yield server
        gated.open()


@pytest.mark.usefixtures("slow_rows")
def test_a_request_whose_timeout_ends_while_others_are_ahead_is_refused_at_once(slow_rows, gated):
    hopeless, hopeful = asking(1, timeout_us=3_000_000), asking(9, timeout_us=60_000_000)
    doubtful = asking(1, timeout_us=9_500_000)  # 7 s are expected
    execute(slow_rows, hopeless, doubtful, hopeful)
    assert error_of(answer_to(doubtful))[0] == TritonError.UNAVAILABLE
    assert error_of(answer_to(hopeless)) == (
        TritonError.UNAVAILABLE,
        "child: overloaded: expected an answer within the request's timeout, got a queue of 7.0 s; retry in 5 s.",
    )
    assert not hopeful.answered.is_set()
    gated.open()
    assert answered_values(answer_to(hopeful)) == [9]


def test_beyond_the_longest_wait_requests_are_refused_at_once_and_told_when_to_retry(slow_rows):
    fits, too_many = asking(*range(5)), asking(1)
    execute(slow_rows, fits)
    execute(slow_rows, too_many)
    assert error_of(answer_to(too_many)) == (
        TritonError.UNAVAILABLE,
        "child: overloaded: expected a queue of at most 10 s, got one of 12.0 s; retry in 2 s.",
    )
    assert not fits.answered.is_set()


def test_of_requests_that_arrive_together_those_that_fit_are_accepted_and_the_others_are_refused_without_a_sender(
    slow_rows, gated
):
    requests = [asking(value) for value in range(6)]  # 7 s are ahead of the first, 10 s of the fourth
    execute(slow_rows, *requests)
    assert [request.has_sender for request in requests] == [True] * 4 + [False] * 2
    for request in requests[4:]:
        assert error_of(answer_to(request)) == (
            TritonError.UNAVAILABLE,
            "child: overloaded: expected a queue of at most 10 s, got one of 11.0 s; retry in 1 s.",
        )
    gated.open()
    assert [answered_values(answer_to(request)) for request in requests[:4]] == [[0], [1], [2], [3]]


def test_rows_sent_off_that_never_come_stop_counting(monkeypatch, gated):
    child = merging(chunk_rows=1, max_wait_s=10)
    child._row_s = 6.0
    n_runs = 0

    async def handle(request):
        nonlocal n_runs
        n_runs += 1
        if n_runs == 2:  # on the event loop
            raise RuntimeError("lost")
        return {"y": await child.rows(rows_of(request))}

    gated.open()
    with serving(handle) as server:
        lost = server.ask(asking(1))[0]
        assert "lost" in error_of(lost)[1]
        assert len(child._on_the_way) == 1
        monkeypatch.setattr(batched, "FORGET_S", -1)
        assert answered_values(server.ask(asking(2))[0]) == [2]
        assert not child._on_the_way


def test_a_refused_request_leaves_those_that_arrived_with_it_and_need_no_such_child_together(gated):
    heavy, light = merging("heavy", chunk_rows=1, max_wait_s=10), merging("light", early_return=False)
    heavy._row_s, heavy._on_the_way = 1.0, deque([time.monotonic() + 60] * 11)
    light_calls = fake_triton.CHILDREN["light"] = Gated(is_open=True)

    async def handle(request):
        rows = rows_of(request)
        needs = request.inputs["rows"][:, 0] > 10
        asked = route(rows, needs, heavy.rows, fill=np.zeros(1, np.float32))
        both = await together(asked, light.rows(rows))
        return {"y": both[0] + both[1]}

    with serving(handle) as server:
        answers = server.ask(asking(1), asking(11), asking(2), asking(12))
    assert [answer.has_error() for answer in answers] == [False, True, False, True]
    assert [answered_values(answers[0]), answered_values(answers[2])] == [[1], [2]]
    assert sorted(values(light_calls.next_call())) == [1, 2]
    assert gated.n_calls == 0
