"""What is concluded from turns that are made up."""

import itertools

import numpy as np
import pytest
from made_up_turns import Machine, compare

from dualpath.compare.load import Turn
from dualpath.compare.result import Load
from dualpath.compare.run import Timing
from dualpath.compare.verdict import doubt


def test_a_known_ratio_lies_in_its_interval_on_a_drifting_noisy_machine():
    held = 0
    for seed in range(20):
        [cell] = compare(Machine({"A": 0.02, "B": 0.01}, drift=0.1, noise=0.05, seed=seed)).cells
        ratio = cell.compared["B"].throughput
        held += ratio.low <= 2 <= ratio.high
        assert ratio.value == pytest.approx(2, rel=0.2)
        assert ratio.low > 1.5
    assert held >= 16


def test_the_verdict_says_who_is_faster_and_by_how_much():
    result = compare(Machine({"A": 0.02, "B": 0.01}), [Load(1, 1), Load(8, 1)])
    assert result.verdict == "B against A, rows per second: faster under 2 of 2 loads (2 x)."
    assert not result.failed
    assert result.notes == []


def test_too_few_turns_give_no_verdict():
    result = compare(Machine({"A": 20.0, "B": 10.0}))
    assert result.cells[0].compared["B"].throughput.value == pytest.approx(2, rel=0.5)
    assert result.cells[0].notes == ["Too few turns for a verdict on B: a longer duration gives more."]
    assert "too noisy to say" in result.verdict


def test_a_machine_that_is_too_noisy_is_named_instead_of_a_winner():
    result = compare(Machine({"A": 0.01, "B": 0.011}, noise=0.5))
    too_noisy, *unsteady = result.cells[0].notes
    assert too_noisy.startswith("Too noisy for a verdict on B: its speed is ")
    assert any(note.startswith("The machine is not steady: from turn to turn A's speed moved by ") for note in unsteady)
    assert result.verdict == "B against A, rows per second: too noisy to say."


def test_two_of_the_same_speed_are_said_to_be():
    result = compare(Machine({"A": 0.01, "B": 0.01}, noise=0.01))
    assert result.verdict == "B against A, rows per second: as fast."


def test_at_a_rate_the_median_latency_decides():
    result = compare(Machine({"A": 0.02, "B": 0.01}), [Load(1, rate=50.0)])
    assert result.verdict.startswith("B against A, speed of the median answer at a given rate: faster (")
    assert result.cells[0].compared["B"].p50.high < 1
    assert result.cells[0].compared["B"].throughput.value == 1


def test_a_busy_client_is_named_as_the_bottleneck():
    def measure_turn(order):
        return Turn(1.0, 1000, 0, {"all": [1.0] * 1000}, client_busy=0.97, lag_ms=5.0)

    assert compare(measure_turn).cells[0].notes == [
        "With A the client itself was the bottleneck: it used 97% of a core.",
        "With A the client was 5.0 ms late; its latencies include that. Give the client more CPU.",
        "With B the client itself was the bottleneck: it used 97% of a core.",
        "With B the client was 5.0 ms late; its latencies include that. Give the client more CPU.",
    ]


def test_errors_and_time_outs_are_counted_and_reach_the_verdict():
    def measure_turn(order):
        bad = order.contender.name == "B"
        return Turn(
            1.0, 90, 7 * bad, {"all": [1.0] * 90}, n_timeouts=3 * bad, first_error="out of luck" if bad else None
        )

    result = compare(measure_turn, plan=Timing(duration_s=6))
    b = result.cells[0].measured["B"]
    assert (b.n_requests, b.n_errors, b.n_timeouts, b.first_error) == (600, 42, 18, "out of luck")
    assert result.cells[0].measured["A"].n_errors == 0
    assert result.verdict.endswith(" B failed 42 requests and timed out on 18.")
    assert not result.failed


def test_a_contender_that_answers_nothing_fails_the_run():
    def measure_turn(order):
        if order.contender.name == "B":
            return Turn(1.0, 0, 50, {"all": []}, first_error="no such thing")
        return Turn(1.0, 90, 0, {"all": [1.0] * 90})

    result = compare(measure_turn)
    assert result.failed
    assert result.cells[0].notes == ["B answered none of 500 requests: no such thing"]
    assert result.cells[0].compared == {}


def test_as_fast_is_not_said_where_the_client_was_the_bottleneck():
    def measure_turn(order):
        fast = order.contender.name == "B" and order.load.concurrency == 4
        busy = 0.9 if order.load.concurrency == 1 else 0.1
        return Turn(1.0, 1000 * (1 + fast), 0, {"all": [1.0] * 1000}, client_busy=busy)

    result = compare(measure_turn, [Load(1, 1), Load(1, 2), Load(1, 4)])
    assert [cell.client_bound for cell in result.cells] == [["A", "B"], [], []]
    assert doubt(result.cells[0], "B", "A") == "the client was the bottleneck"
    assert result.verdict == (
        "B against A, rows per second: faster under 1 of 3 loads (2 x), as fast under 1 of 3 loads, no verdict under 1 "
        "of 3 loads. In 1 of 3 loads the client was the bottleneck."
    )


def alternating(b):
    """Measure turns of 90 answers; `b` makes B's, one in two."""
    n_turns = itertools.count()

    def measure_turn(order):
        good = Turn(1.0, 90, 0, {"all": [1.0] * 90})
        return b() if order.contender.name == "B" and next(n_turns) % 2 else good

    return measure_turn


@pytest.mark.parametrize("load", [Load(1, concurrency=4), Load(1, rate=90.0)])
def test_turns_without_an_answer_are_not_left_out_of_the_verdict(load):
    result = compare(alternating(lambda: Turn(1.0, 0, 50, {"all": []}, first_error="no luck")), [load])
    [cell] = result.cells
    assert cell.compared["B"].throughput.value < 0.5
    assert "as fast" not in result.verdict
    if load.rate:
        assert cell.notes == ["No verdict on B: in some rounds one side answered nothing."]
        assert cell.no_verdict == {"B": "left rounds unanswered"}
        assert "at a given rate: no verdict." in result.verdict


def test_a_time_out_counts_in_percentiles_and_ratios_with_the_time_it_was_waited_for():
    def measure_turn(order):
        late = 3 if order.contender.name == "B" else 0
        return Turn(1.0, 90, 0, {"all": [1.0] * 90}, n_timeouts=late, timeouts_ms={"all": [500.0] * late})

    [cell] = compare(measure_turn).cells
    assert cell.measured["B"].latencies_ms[50] == 1
    assert cell.measured["B"].latencies_ms[99] == 500
    assert cell.compared["B"].p99.value == pytest.approx(500)


def test_a_contender_whose_requests_all_time_out_fails_the_run():
    turns = itertools.count(-2)  # the first is the warm-up

    def measure_turn(order):
        if order.contender.name == "A" or next(turns) < -1:
            return Turn(1.0, 90, 0, {"all": [1.0] * 90})
        return Turn(1.0, 0, 0, {"all": []}, n_timeouts=4, timeouts_ms={"all": [500.0] * 4})

    result = compare(measure_turn)
    b = result.cells[0].measured["B"]
    assert b.n_requests == b.n_timeouts > 0
    assert b.latencies_ms == {}
    assert result.failed
    assert result.verdict == f"B timed out on {b.n_timeouts} requests."


def queue(rate, capacity, noise, rng):
    """An open loop's turn of 2 s on a server that answers so many a second, one after the other."""
    times = np.cumsum(rng.exponential(1 / rate, int(2 * rate)))
    free, waits = 0.0, []
    for time_s in times:
        free = max(free, time_s) + rng.uniform(1 - noise, 1 + noise) / capacity
        waits.append((time_s, free - time_s))
    return Turn(free, len(times), 0, {"all": [wait * 1e3 for _, wait in waits]}, waits_s=waits)


def test_who_does_not_keep_up_with_a_rate_is_named_and_gets_no_verdict():
    rng = np.random.default_rng(0)
    result = compare(
        lambda order: queue(100, {"A": 80, "B": 200}[order.contender.name], 0.5, rng), [Load(1, rate=100.0)]
    )
    assert result.cells[0].notes == [
        "No verdict: A does not keep up with 100 requests/s; its latency grows with the length of a turn."
    ]
    assert result.cells[0].no_verdict == {"A": "cannot keep up"}
    assert result.verdict == "B against A, speed of the median answer at a given rate: no verdict."
    assert doubt(result.cells[0], "B", "A") == "no verdict: A cannot keep up"
    assert doubt(result.cells[0], "B") == ""


def test_who_drops_requests_does_not_keep_up():
    def measure_turn(order):
        late = 10 if order.contender.name == "B" else 0
        waits = [(number / 50, 0.001) for number in range(90)] + [(1.9, 0.5)] * late
        return Turn(2.0, 90, 0, {"all": [1.0] * 90}, late, {"all": [500.0] * late}, waits)

    [note] = compare(measure_turn, [Load(1, rate=50.0)]).cells[0].notes
    assert note.startswith("No verdict: B does not keep up with 50 requests/s")


@pytest.mark.parametrize("seed", range(5))
def test_who_keeps_up_may_be_slow_at_times(seed):
    rng = np.random.default_rng(seed)
    result = compare(lambda order: queue(10, 40, 0.9, rng), [Load(1, rate=10.0)])
    assert not any("keep up" in note for note in result.cells[0].notes)
