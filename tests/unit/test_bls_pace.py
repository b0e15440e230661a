"""How calls are cut if nobody says how: by the times of those made, on made-up children."""

import pytest

from dualpath.bls.pace import Cutter, Pace


def test_a_pace_tells_the_fixed_part_from_the_part_of_each_row():
    pace = Pace()
    assert pace.seconds(1) == float("inf")
    for n_rows in (1, 2, 4, 8) * 5:
        pace.note(n_rows, 0.010 + 0.002 * n_rows)
    assert pace.seconds(16) == pytest.approx(0.042)
    assert pace.seconds(1) == pytest.approx(0.012)


def test_calls_of_one_size_tell_nothing_of_a_row():
    pace = Pace()
    pace.note(4, 0.01)
    assert pace.seconds(1) == pace.seconds(64) == 0.01


class Child:
    """A child of so many instances that takes `fixed_s` for a call and `row_s` for a row; it learns as it is called."""

    def __init__(self, n_instances, fixed_s, row_s):
        self._n_instances, self._fixed_s, self._row_s = n_instances, fixed_s, row_s

    def train(self, cutter, n_waiting, n_times=60):
        """Have so many rows answered again and again, each time cut as the cutter says."""
        for _ in range(n_times):
            left, calls = n_waiting, []
            in_flight = cutter.in_flight(n_waiting)
            while left:
                rows = cutter.rows_in_call(left, len(calls) % in_flight)
                calls.append(rows)
                left -= rows
            for start in range(0, len(calls), in_flight):
                together = calls[start : start + in_flight]
                rounds = -(-len(together) // self._n_instances)  # a call waits for those before it on its instance
                cutter.note(together[-1], len(together), rounds * (self._fixed_s + self._row_s * together[-1]))


def test_a_lone_instance_whose_batch_costs_what_a_row_costs_gets_all_rows_in_one_call():
    cutter = Cutter(None, None, 64)
    Child(1, 0.03, 0.0).train(cutter, 4)
    assert (cutter.in_flight(4), cutter.rows_in_call(4, 0)) == (1, 4)


def test_two_instances_whose_time_grows_with_the_rows_share_them():
    cutter = Cutter(None, None, 64)
    Child(2, 0.001, 0.03).train(cutter, 8)
    assert cutter.in_flight(8) == 2
    assert cutter.rows_in_call(8, 0) <= 4


def test_calls_grow_with_what_they_bring():
    cutter = Cutter(None, None, 64)
    Child(1, 0.05, 0.0001).train(cutter, 64)
    assert cutter.rows_in_call(64, 0) == 64


def test_stalls_of_a_busy_machine_do_not_change_what_pays():
    cutter = Cutter(None, None, 64)
    child = Child(1, 0.008, 0.0)
    plans = []
    for _ in range(100):
        child.train(cutter, 4, n_times=9)
        cutter.note(4, 1, 0.3)
        plans.append((cutter.in_flight(4), cutter.rows_in_call(4, 0)))
    assert plans.count((1, 4)) > 90  # the others are trials


def test_a_machine_that_slows_down_does_not_change_what_pays():
    cutter = Cutter(None, None, 64)
    Child(1, 0.008, 0.0).train(cutter, 4)
    for slower in (3, 0.5, 10, 1):
        for _ in range(80):
            cutter.note(4, 1, 0.008 * slower)
            assert (cutter.in_flight(4), cutter.rows_in_call(4, 0)) == (1, 4)


def test_a_child_that_changes_is_found_out():
    cutter = Cutter(None, None, 64)
    Child(1, 0.008, 0.0).train(cutter, 8)
    assert cutter.in_flight(8) == 1
    Child(2, 0.001, 0.03).train(cutter, 8, n_times=500)
    assert cutter.in_flight(8) == 2


def test_the_last_idle_instance_takes_the_rows_that_are_left():
    cutter = Cutter(2, None, 16)
    assert (cutter.rows_in_call(4, 0), cutter.rows_in_call(2, 1)) == (2, 2)
    Child(1, 0.008, 0.0).train(cutter, 4)
    assert (cutter.rows_in_call(4, 0), cutter.rows_in_call(2, 1)) == (2, 2)


@pytest.mark.parametrize(("in_flight", "chunk_rows"), [(3, 2), (1, 16), (2, None), (None, 4)])
def test_what_is_said_holds(in_flight, chunk_rows):
    cutter = Cutter(in_flight, chunk_rows, 16)
    Child(1, 0.03, 0.0).train(cutter, 8)
    if in_flight:
        assert cutter.in_flight(8) == in_flight
    assert all(1 <= cutter.rows_in_call(n, 0) <= (chunk_rows or 16) for n in range(1, 40))
