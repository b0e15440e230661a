"""Rows: subsets and their way back, several children at once, children that may be missing."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.bls import ChildFailed, ChildLate, ChildUnavailable, in_slices, route, together, tolerate


@given(st.lists(st.tuples(st.integers(-(2**20), 2**20), st.booleans()), max_size=50))
def test_route_asks_for_the_chosen_rows_and_puts_each_answer_back_in_its_place(rows):
    asked = []

    async def ask(chosen):
        asked.append(chosen)
        return np.array(chosen, np.float32)

    mask = np.array([chosen for _, chosen in rows], np.bool_)
    answers = asyncio.run(route([value for value, _ in rows], mask, ask))
    assert asked == ([[value for value, chosen in rows if chosen]] if mask.any() else [])
    assert answers.dtype == np.float32
    np.testing.assert_array_equal(answers, [value if chosen else np.nan for value, chosen in rows])


@pytest.mark.parametrize("n_answers", [0, 1, 2, 4])
def test_route_refuses_an_answer_with_a_wrong_number_of_rows(n_answers):
    async def ask(chosen):
        return np.zeros(n_answers, np.float32)

    with pytest.raises(ValueError, match="3"):
        asyncio.run(route(list("abcd"), np.array([True, True, False, True]), ask))


def test_together_gives_results_in_order_and_runs_all_at_once():
    async def main():
        first_may_end = asyncio.Event()

        async def first():
            await first_may_end.wait()
            return 1

        async def second():
            first_may_end.set()
            return 2

        return await together(first(), second())

    assert asyncio.run(main()) == [1, 2]


@pytest.fixture
def patient():
    """A coroutine function that waits for ever, and the list that gets an entry if it is cancelled."""
    cancelled = []

    async def wait():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    return wait, cancelled


def test_together_cancels_the_others_when_one_fails(patient):
    wait, cancelled = patient

    async def fail():
        await asyncio.sleep(0)
        raise ChildFailed("c", "broken")

    async def main():
        with pytest.raises(ChildFailed, match="c: broken"):
            await together(wait(), fail())
        await asyncio.sleep(0)
        assert cancelled == [True]

    asyncio.run(main())


def test_together_cancels_all_when_it_is_cancelled(patient):
    wait, cancelled = patient

    async def main():
        task = asyncio.create_task(together(wait(), wait()))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == [True, True]

    asyncio.run(main())


async def answer(outcome):
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


FAILED, UNAVAILABLE, LATE = ChildFailed("c", "failed"), ChildUnavailable("c", "not found"), ChildLate("c", "late")


@pytest.mark.parametrize(
    ("outcome", "allowed", "expected"),
    [
        (7, {}, (7, None)),
        (FAILED, {"failed": True}, (None, "failed")),
        (UNAVAILABLE, {"unavailable": True}, (None, "unavailable")),
        (LATE, {"late": True}, (None, "late")),
        (LATE, {"late": True, "failed": True}, (None, "late")),
        (FAILED, {"unavailable": True, "failed": True}, (None, "failed")),
    ],
)
def test_tolerate_does_without_a_child_if_that_is_allowed(outcome, allowed, expected):
    assert asyncio.run(tolerate(answer(outcome), **allowed)) == expected


@pytest.mark.parametrize(
    ("outcome", "allowed"),
    [
        (FAILED, {}),
        (FAILED, {"late": True}),
        (FAILED, {"unavailable": True}),
        (UNAVAILABLE, {"failed": True, "late": True}),
        (LATE, {"failed": True}),
        (ValueError("a bug"), {"late": True, "failed": True}),
    ],
)
def test_tolerate_raises_what_is_not_tolerated(outcome, allowed):
    with pytest.raises(type(outcome)) as caught:
        asyncio.run(tolerate(answer(outcome), **allowed))
    assert caught.value is outcome


@given(st.lists(st.integers(), max_size=20), st.integers(1, 8))
def test_slices_cover_all_rows_in_order(rows, n_rows):
    sizes = []

    def negate(some):
        sizes.append(len(some))
        return [-row for row in some]

    assert asyncio.run(in_slices(negate, rows, n_rows)) == [-row for row in rows]
    assert all(size == n_rows for size in sizes[:-1])
    assert all(0 < size <= n_rows for size in sizes)


def test_slices_let_others_in_between():
    order = []

    async def work(name):
        await in_slices(lambda rows: order.append((name, rows[0])) or rows, range(4), 2)

    async def main():
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(main())
    assert order == [("a", 0), ("b", 0), ("a", 2), ("b", 2)]
