"""What bounds a `Loop`: rows in flight, and the end."""

import asyncio
import threading

import pytest
from bls_driver import (
    PATIENCE_S,
    PAUSE_S,
    answer_to,
    answered_values,
    asking,
    echo,
    error_of,
    merging,
    passing_on,
    serving,
)
from fake_triton import TritonError

from dualpath.bls import Loop


def test_at_the_bound_of_rows_execute_waits_until_rows_leave(gated):
    first, second, third = asking(1, 2), asking(3, 4), asking(5)
    with serving(passing_on(merging()), max_rows=4) as server:
        server.execute(first).result(PATIENCE_S)
        server.execute(second).result(PATIENCE_S)
        execution = server.execute(third)
        with pytest.raises(TimeoutError):
            execution.result(PAUSE_S)
        gated.next_call().let_through()
        execution.result(PATIENCE_S)
        gated.open()
        assert answered_values(answer_to(third)) == [5]


def test_a_batch_larger_than_the_bound_enters_alone(gated):
    small, large = asking(1), asking(*range(10))
    with serving(passing_on(merging()), max_rows=4) as server:
        server.execute(small).result(PATIENCE_S)
        execution = server.execute(large)
        with pytest.raises(TimeoutError):
            execution.result(PAUSE_S)
        gated.next_call().let_through()
        execution.result(PATIENCE_S)
        assert small.answered.is_set()
        gated.open()
        assert answered_values(answer_to(large)) == list(range(10))


def test_close_waits_for_the_requests_in_flight(gated):
    waiting, queued = asking(1), asking(2)
    with serving(passing_on(merging())) as server:
        server.execute(waiting).result(PATIENCE_S)
        call = gated.next_call()
        server.execute(queued).result(PATIENCE_S)
        closed = server.close()
        with pytest.raises(TimeoutError):
            closed.result(PAUSE_S)
        call.let_through()
        gated.next_call().let_through()
        closed.result(PATIENCE_S)
        assert answered_values(waiting.answers[0]) == [1]
        assert answered_values(queued.answers[0]) == [2]


def test_close_fails_what_is_not_finished_in_time(monkeypatch):
    monkeypatch.setattr("dualpath.bls.loop.DRAIN_S", PAUSE_S)
    endless = asking(1)

    async def never(request):
        request.answer_later()
        await asyncio.Event().wait()

    with serving(never) as server:
        server.execute(endless).result(PATIENCE_S)
        server.close().result(PATIENCE_S)
    code, message = error_of(endless.answers[0])
    assert (code, message) == (TritonError.INTERNAL, "CancelledError: the model is being unloaded.")


def test_close_leaves_a_child_that_never_answers(gated, monkeypatch):
    monkeypatch.setattr("dualpath.bls.loop.DRAIN_S", PAUSE_S)
    monkeypatch.setattr("dualpath.bls.shared_loop.CALLS_S", PAUSE_S)
    stuck = asking(1)
    with serving(passing_on(merging())) as server:
        server.execute(stuck).result(PATIENCE_S)
        call = gated.next_call()
        server.close().result(PATIENCE_S)
        call.let_through()
        [finish] = [thread for thread in threading.enumerate() if thread.name == "finish"]
        finish.join(PATIENCE_S)
    assert error_of(stuck.answers[0])[1] == "CancelledError: the model is being unloaded."


def test_close_ends_the_threads():
    before = set(threading.enumerate())
    loop = Loop(echo)
    loop.serve([asking(1)])
    loop.close()
    assert set(threading.enumerate()) <= before
