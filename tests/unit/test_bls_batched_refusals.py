"""Merged calls that fail, and rows that a child cannot take: who gets the error, and what goes on."""

import fake_triton
import numpy as np
import pytest
from bls_driver import (
    Gated,
    answer_to,
    answered_values,
    asking,
    error_of,
    execute,
    merging,
    pad,
    passing_on,
    rows_of,
    serving,
    values,
)
from fake_triton import TritonError

from dualpath.bls import BatchedChild


def test_a_poisoned_row_fails_its_own_request_only(gated):
    requests = [asking(1), asking(2, 3), asking(4)]
    with serving(passing_on(merging())) as server:
        execute(server, *requests)
        gated.next_call().let_through(error="poisoned")
        for expected, error in (([1], None), ([2, 3], "poisoned"), ([4], None)):
            call = gated.next_call()
            assert values(call) == expected
            call.let_through(error=error)
        first, second, third = map(answer_to, requests)
    assert answered_values(first) == [1]
    assert error_of(second) == (TritonError.INTERNAL, "child: poisoned")
    assert answered_values(third) == [4]
    assert gated.n_calls == 4


def test_rows_of_one_request_that_fail_are_not_tried_again(gated):
    request = asking(1, 2)
    with serving(passing_on(merging())) as server:
        execute(server, request)
        gated.next_call().let_through(error="poisoned")
        assert error_of(answer_to(request)) == (TritonError.INTERNAL, "child: poisoned")
    assert gated.n_calls == 1


def test_a_request_that_has_failed_starts_no_further_call(gated):
    request = asking(1, 2, 3, 4, 5, 6)
    with serving(passing_on(merging(chunk_rows=2))) as server:
        execute(server, request)
        gated.next_call().let_through(error="poisoned")
        answer_to(request)
    assert gated.n_calls == 1


def test_a_child_is_free_again_after_a_call_that_failed(gated):
    with serving(passing_on(merging())) as server:
        for value in range(3):
            request = asking(value)
            execute(server, request)
            gated.next_call().let_through(error="poisoned")
            answer_to(request)
        gated.open()
        assert answered_values(*server.ask(asking(7))) == [7]


def test_an_unavailable_child_is_not_tried_again(gated):
    requests = [asking(1), asking(2)]
    with serving(passing_on(merging())) as server:
        execute(server, *requests)
        gated.next_call().let_through(error="Stub process 'child_0_0' is not healthy.")
        for request in requests:
            code, message = error_of(answer_to(request))
            assert code == TritonError.UNAVAILABLE
            assert message == "child: Stub process 'child_0_0' is not healthy."
    assert gated.n_calls == 1


@pytest.mark.parametrize("n_rows", [0, 1, 3])
def test_a_wrong_number_of_rows_in_an_answer_is_an_error(n_rows):
    fake_triton.CHILDREN["child"] = lambda inputs: {"y": np.zeros((n_rows, 1), np.float32)}
    with serving(passing_on(merging())) as server:
        [response] = server.ask(asking(1, 2))
    code, message = error_of(response)
    assert code == TritonError.INTERNAL
    assert (
        message
        == f"child: expected 2 rows in output 'y', got {n_rows} rows. Correct this model's config or the child's."
    )


@pytest.mark.parametrize("error", [KeyError("a bug"), StopIteration("a bug")])
def test_a_collate_that_raises_fails_the_requests_and_leaves_the_child_free(error):
    fake_triton.CHILDREN["child"] = Gated(is_open=True)

    def collate(rows):
        if any(row[0] < 0 for row in rows):
            raise error
        return pad(rows)

    child = BatchedChild("child", "y", collate, in_flight=1, chunk_rows=4, early_return=True)
    with serving(passing_on(child)) as server:
        good, bad = server.ask(asking(1), asking(-1))
        [after] = server.ask(asking(2))
    assert answered_values(good) == [1]
    assert error_of(bad)[0] == TritonError.INTERNAL
    assert answered_values(after) == [2]


def test_rows_without_a_length_fail_their_request_alone():
    fake_triton.CHILDREN["child"] = Gated(is_open=True)
    child = merging()

    async def handle(request):
        rows = rows_of(request)
        return {"y": await child.rows([rows[0], np.int64(3)] if rows[0][0] < 0 else rows)}

    with serving(handle) as server:
        bad, good = server.ask(asking(-1), asking(1))
    assert error_of(bad)[0] == TritonError.INTERNAL
    assert answered_values(good) == [1]


def test_no_rows_are_an_error_and_not_an_endless_wait(gated):
    with serving(passing_on(merging())) as server:
        [response] = server.ask(asking())
    assert error_of(response) == (
        TritonError.INTERNAL,
        "ValueError: child: expected at least one row, got none. Leave such a call out.",
    )
