"""Every request is answered exactly once, whatever happens.

`serving` holds each test to it: one answer for every request, by the sender with the final flag where `execute`
returned None, and no question to Triton after it.
"""

import asyncio
import gc
import threading
import weakref

import fake_triton
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
    rows_of,
    serving,
)
from fake_triton import TritonError
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.bls import together


def test_what_does_not_wait_for_a_slow_child_goes_back_with_the_return_of_execute():
    with serving(echo) as server:
        requests = [asking(1, 2), asking(3), asking(4, 5, 6)]
        responses = server.ask(*requests)
    assert [answered_values(response) for response in responses] == [[1, 2], [3], [4, 5, 6]]
    assert not any(request.has_sender for request in requests)


def test_a_fast_child_keeps_execute_until_the_answer(gated):
    request = asking(1, 2)
    with serving(passing_on(merging(early_return=False))) as server:
        execution = server.execute(request)
        call = gated.next_call()
        assert not execution.done()
        call.let_through()
        execution.result(PATIENCE_S)
    assert not request.has_sender
    assert answered_values(request.answers[0]) == [1, 2]


def test_what_waits_for_a_slow_child_is_answered_by_its_sender_after_execute_has_returned(gated):
    slow = asking(1, 2)
    with serving(passing_on(merging())) as server:
        server.execute(slow).result(PATIENCE_S)
        assert slow.has_sender
        assert not slow.answered.is_set()
        gated.next_call().let_through()
        assert answered_values(answer_to(slow)) == [1, 2]
    assert slow.sent_flags == [fake_triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL]


def test_requests_of_one_execute_part_ways(gated):
    child = merging()

    async def handle(request):
        match request.inputs["rows"][0, 0]:
            case 1:
                return {"y": await child.rows(rows_of(request))}
            case 2:
                raise ValueError("a bug")
        return await echo(request)

    requests = [asking(1), asking(2), asking(3)]
    with serving(handle, merge_requests=False) as server:
        server.execute(*requests).result(PATIENCE_S)
        assert [request.has_sender for request in requests] == [True, False, False]
        gated.next_call().let_through()
    slow, failed, fast = (request.answers[0] for request in requests)
    assert answered_values(slow) == [1]
    assert error_of(failed) == (TritonError.INTERNAL, "ValueError: a bug")
    assert answered_values(fast) == [3]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a bug"), "ValueError: a bug"),
        (asyncio.CancelledError(), "CancelledError: "),
        (TimeoutError(), "TimeoutError: "),
        (MemoryError("no more"), "MemoryError: no more"),
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration(1), "RuntimeError: coroutine raised StopIteration"),
    ],
)
def test_a_handler_that_raises_answers_with_its_error(error, message):
    async def handle(request):
        raise error

    with serving(handle) as server:
        [response] = server.ask(asking(1))
    assert error_of(response) == (TritonError.INTERNAL, message)


def test_a_handler_that_fails_before_it_is_a_coroutine_answers_with_its_error():
    with serving(lambda: None) as server:
        [response] = server.ask(asking(1))
    assert error_of(response)[1].startswith("TypeError: ")


def test_a_handler_that_raises_after_it_waited_for_a_slow_child_answers_by_the_sender(gated):
    child = merging()

    async def handle(request):
        await child.rows(rows_of(request))
        raise ValueError("too late to say")

    request = asking(1)
    with serving(handle) as server:
        server.execute(request).result(PATIENCE_S)
        gated.next_call().let_through()
        assert error_of(answer_to(request)) == (TritonError.INTERNAL, "ValueError: too late to say")
    assert request.has_sender


def test_a_failing_child_answers_with_its_error(gated):
    request = asking(1)
    with serving(passing_on(merging())) as server:
        server.execute(request).result(PATIENCE_S)
        gated.next_call().let_through(error="out of memory")
        assert error_of(answer_to(request)) == (TritonError.INTERNAL, "child: out of memory")


@pytest.mark.parametrize("outputs", [None, 3])
def test_outputs_that_make_no_response_answer_with_an_error(outputs):
    async def handle(request):
        return outputs

    with serving(handle) as server:
        [response] = server.ask(asking(1))
    assert error_of(response)[1].startswith("AttributeError: ")


@pytest.mark.parametrize("broken", ["inputs", "parameters", "timeout", "trace"])
def test_a_request_that_cannot_be_read_fails_alone(broken):
    def fail():
        raise fake_triton.TritonModelException("it is gone")

    unreadable, good = asking(1, parameters={"trace_children": True}), asking(2)
    setattr(unreadable, broken, fail)
    with serving(echo) as server:
        failed, answered = server.ask(unreadable, good)
    assert error_of(failed) == (TritonError.INTERNAL, "TritonModelException: it is gone")
    assert answered_values(answered) == [2]


def test_a_request_that_asks_for_its_trace_is_answered_before_execute_returns(gated):
    request = asking(1, trace="mine", parameters={"trace_children": True})
    with serving(passing_on(merging())) as server:  # slow: without a trace it would be answered later
        executing = server.execute(request)
        call = gated.next_call()
        assert not executing.done()
        call.let_through()
        executing.result(PATIENCE_S)
    assert not request.has_sender


def test_the_answer_waits_for_every_call_that_carries_the_trace(gated):
    fake_triton.CHILDREN["broken"] = lambda inputs: 1 / 0
    slow, broken = merging(), merging("broken")

    async def handle(request):
        return await together(slow.rows(rows_of(request)), broken.rows(rows_of(request)))

    request = asking(1, trace="mine", parameters={"trace_children": True})
    with serving(handle) as server:
        server.execute(request)
        call = gated.next_call()
        assert not request.answered.wait(PAUSE_S)  # though the request has failed already
        call.let_through()
        assert error_of(answer_to(request))[1] == "broken: division by zero"


def test_request_parameters_that_are_no_json_fail_their_request_alone():
    garbled, good = asking(1), asking(2)
    garbled.parameters = lambda: "{"
    with serving(echo) as server:
        failed, answered = server.ask(garbled, good)
    assert error_of(failed)[1].startswith("JSONDecodeError: ")
    assert answered_values(answered) == [2]


def test_a_response_sender_that_cannot_be_had_fails_its_request_alone(gated):
    def fail():
        raise fake_triton.TritonModelException("no sender")

    without, good = asking(1), asking(2)
    without.get_response_sender = fail
    with serving(passing_on(merging())) as server:
        server.execute(without, good).result(PATIENCE_S)
        gated.next_call().let_through()
        assert error_of(answer_to(without))[1] == "TritonModelException: no sender"
        assert answered_values(answer_to(good)) == [2]


def test_a_send_that_fails_is_logged_and_frees_its_rows(gated):
    gated.open()
    lost = asking(1)
    lost.send_error = "the pipe is broken"
    with serving(passing_on(merging())) as server:
        server.execute(lost)
        assert answered_values(*server.ask(asking(2))) == [2]
        server.requests.remove(lost)
    assert not lost.answered.is_set()
    assert fake_triton.LOGGED == [("error", "a response could not be sent: the pipe is broken")]


def test_inputs_outlive_execute(gated):
    child = merging()

    async def handle(request):
        first = await child.rows(rows_of(request))
        return {"y": first + request.inputs["rows"][:, :1]}

    request = asking(3, 4)
    with serving(handle) as server:
        server.execute(request).result(PATIENCE_S)
        assert request.arrays["rows"].tolist() == [[-1, -1], [-1, -1]]
        gated.next_call().let_through()
        assert answered_values(answer_to(request)) == [6, 8]


def test_a_slow_child_asked_for_after_the_answer_disturbs_nobody(gated):
    gated.open()
    child, may_ask, has_asked = merging(), threading.Event(), threading.Event()
    leftovers = []

    async def ask_too_late(request):
        await asyncio.to_thread(may_ask.wait, PATIENCE_S)
        await child.rows(rows_of(request))
        has_asked.set()

    async def handle(request):
        await asyncio.sleep(0)  # so that it runs on the event loop
        if request.inputs["rows"][0, 0] == 1:
            leftovers.append(asyncio.ensure_future(ask_too_late(request)))
            return await echo(request)
        while not leftovers:
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)  # the first request is answered
        may_ask.set()
        await asyncio.to_thread(has_asked.wait, PATIENCE_S)
        return await echo(request)

    hasty, patient = asking(1), asking(2)
    with serving(handle) as server:
        responses = server.ask(hasty, patient)
    assert [answered_values(response) for response in responses] == [[1], [2]]


OUTCOMES = ("fast", "slow", "slow twice", "both", "raise", "slow then raise", "poisoned", "cancel", "unreadable")


@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=5), min_size=1, max_size=6))
def test_any_mix_of_outcomes_is_answered_once_each(batches):
    fake_triton.reset()

    def answer(inputs):
        if (inputs["x"][:, 0] < 0).any():
            raise RuntimeError("poisoned")
        return {"y": inputs["x"][:, :1]}

    fake_triton.CHILDREN.update(slow=answer, fast=answer)
    slow = merging("slow", in_flight=2, chunk_rows=3)
    fast = merging("fast", early_return=False)

    async def handle(request):
        rows = rows_of(request)
        match request.parameters["outcome"]:
            case "fast":
                return {"y": await fast.rows(rows)}
            case "slow" | "poisoned":
                return {"y": await slow.rows(rows)}
            case "slow twice":
                await slow.rows(rows)
                return {"y": await slow.rows(rows)}
            case "both":
                first, second = await together(slow.rows(rows), fast.rows(rows))
                return {"y": (first + second) // 2}
            case "slow then raise":
                await slow.rows(rows)
            case "cancel":
                raise asyncio.CancelledError
        raise ValueError("a bug")

    expected = []
    with serving(handle, merge_requests=False) as server:
        for number, batch in enumerate(batches):
            requests = []
            for place, outcome in enumerate(batch):
                value = 10 * number + place + 1
                rows = [value] * (place + 1) if outcome != "poisoned" else [value, -value]
                request = asking(*rows, parameters={"outcome": outcome})
                if outcome == "unreadable":
                    request.inputs = lambda: 1 / 0
                requests.append(request)
                expected.append((request, outcome, rows))
            server.execute(*requests)
        for request, outcome, rows in expected:
            response = answer_to(request)
            if outcome in ("fast", "slow", "slow twice", "both"):
                assert answered_values(response) == rows
            else:
                assert response.has_error()


def test_requests_that_come_the_moment_the_last_is_answered_are_served(gated):
    gated.open()
    with serving(passing_on(merging())) as server:
        for value in range(1000):
            assert answered_values(*server.ask(asking(value))) == [value]


def test_no_requests_are_no_work():
    with serving(echo) as server:
        assert server.execute().result(PATIENCE_S) is None


def test_sys_exit_in_a_task_of_the_handler_leaves_the_model_alive():
    async def leave():
        raise SystemExit(3)

    async def handle(request):
        if request.inputs["rows"][0, 0] == 1:
            await together(leave())
        return await echo(request)

    with serving(handle, merge_requests=False) as server:
        left, answered = server.ask(asking(1), asking(2))
    assert error_of(left) == (TritonError.INTERNAL, "SystemExit: 3")
    assert answered_values(answered) == [2]


def test_an_answered_request_keeps_no_memory():
    request = asking(1)
    with serving(echo) as server:
        gc.disable()
        try:
            server.ask(request)
            held = weakref.ref(request)
            del request
            server.ask(asking(2))  # so that the test's own thread lets go of the first
            server.requests.clear()
            assert held() is None
        finally:
            gc.enable()
