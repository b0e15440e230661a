"""Answers before `execute` returns: each request its own rows, or its own error."""

import fake_triton
import numpy as np
from bls_driver import error_of
from fake_triton import TritonError, received
from hypothesis import given
from hypothesis import strategies as st

from dualpath.bls import answer_each, answer_merged


def halve(inputs):
    if (inputs["x"] < 0).any():
        raise ValueError("below zero")
    if (inputs["x"] == 0).any():
        raise KeyError("a bug")
    return {"y": inputs["x"] / 2}


def test_each_request_is_answered_and_fails_alone():
    requests = [received(x=[2.0, 4.0]), received(x=[-1.0]), received(x=[0.0]), received(x=[6.0])]
    first, faulty, bug, last = answer_each(requests, halve, caller_errors=(ValueError,))
    assert first.arrays()["y"].tolist() == [1, 2]
    assert error_of(faulty) == (TritonError.INVALID_ARG, "below zero")
    assert error_of(bug) == (TritonError.INTERNAL, "KeyError: 'a bug'")
    assert last.arrays()["y"].tolist() == [3]


def test_a_request_that_cannot_be_read_fails_alone():
    unreadable = received(x=[2.0])
    unreadable.inputs = lambda: 1 / 0
    failed, answered = answer_each([unreadable, received(x=[2.0])], halve)
    assert error_of(failed) == (TritonError.INTERNAL, "ZeroDivisionError: division by zero")
    assert answered.arrays()["y"].tolist() == [1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_merged_requests_get_their_own_rows_in_one_call(sizes):
    rows = np.arange(1, sum(sizes) + 1, dtype=np.float32)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    calls = []

    def negate(inputs):
        calls.append(len(inputs["x"]))
        return {"y": -inputs["x"]}

    responses = answer_merged([received(x=part) for part in parts], negate)
    assert calls == [sum(sizes)]
    assert [response.arrays()["y"].tolist() for response in responses] == [(-part).tolist() for part in parts]


def test_a_merged_call_that_fails_is_tried_again_request_by_request():
    answered, failed = answer_merged([received(x=[2.0]), received(x=[0.0])], halve)
    assert answered.arrays()["y"].tolist() == [1]
    assert error_of(failed) == (TritonError.INTERNAL, "KeyError: 'a bug'")
    assert any("Traceback" in text for _, text in fake_triton.LOGGED)


def test_a_merged_request_that_cannot_be_read_fails_alone():
    unreadable = received(x=[2.0])
    unreadable.inputs = lambda: 1 / 0
    failed, answered = answer_merged([unreadable, received(x=[2.0])], halve)
    assert error_of(failed) == (TritonError.INTERNAL, "ZeroDivisionError: division by zero")
    assert answered.arrays()["y"].tolist() == [1]


def test_answers_of_another_number_of_rows_are_refused():
    responses = answer_merged([received(x=[2.0]), received(x=[4.0])], lambda inputs: {"y": inputs["x"].repeat(2)})
    assert [error_of(it) for it in responses] == [
        (TritonError.INTERNAL, "ValueError: y: expected 1 rows, got 2. Return one for each.")
    ] * 2
