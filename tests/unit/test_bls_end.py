"""The end of a pipeline: what is in flight is finished, or failed after a while."""

import asyncio
import threading

import pytest
from bls_driver import (
    PATIENCE_S,
    PAUSE_S,
    answered_values,
    asking,
    echo,
    error_of,
    merging,
    model_config,
    passing_on,
    serving,
)
from fake_triton import TritonError

from dualpath.bls import Pipeline


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
    monkeypatch.setattr("dualpath.bls.pipeline.DRAIN_S", PAUSE_S)
    endless = asking(1)

    async def never(request):
        await asyncio.Event().wait()

    with serving(never) as server:
        server.execute(endless).result(PATIENCE_S)
        server.close().result(PATIENCE_S)
    code, message = error_of(endless.answers[0])
    assert (code, message) == (TritonError.INTERNAL, "CancelledError: the model is being unloaded.")


def test_close_leaves_a_child_that_never_answers(gated, monkeypatch):
    monkeypatch.setattr("dualpath.bls.pipeline.DRAIN_S", PAUSE_S)
    monkeypatch.setattr("dualpath.bls.loop_thread.CALLS_S", PAUSE_S)
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
    pipeline = Pipeline(echo, model_config())
    pipeline.execute([asking(1)])
    pipeline.close()
    assert set(threading.enumerate()) <= before
