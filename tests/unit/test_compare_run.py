"""Runs with contenders of known speed, on turns that are made up instead of waited for."""

from contextlib import contextmanager

import numpy as np
import pytest

from dualpath.compare.load import Contender, Turn
from dualpath.compare.result import Load, Result
from dualpath.compare.run import MIN_ROUNDS, Order, Plan, measure, turns_of

ONE_LOAD = (Load(1, concurrency=4),)
PLAN = Plan()


class Machine:
    """Measures turns of contenders with known latencies, while its own speed walks at random.

    Args:
        latency_s: of a row, by contender.
        drift, noise: standard deviations of the log speed, from turn to turn and within one.
    """

    def __init__(self, latency_s, drift=0.0, noise=0.0, seed=0):
        self.latency_s = latency_s
        self.drift, self.noise = drift, noise
        self.orders: list[Order] = []
        self._rng = np.random.default_rng(seed)
        self._slow = 1.0

    def __call__(self, order):
        self.orders.append(order)
        self._slow *= np.exp(self._rng.normal(0, self.drift))
        load = order.load
        latency_s = (
            self.latency_s[order.contender.name] * self._slow * np.exp(self._rng.normal(0, self.noise)) * load.batch
        )
        n_requests = max(1, int(order.duration_s * (load.rate or (load.concurrency or 1) / latency_s)))
        latencies_ms = self._rng.gamma(20, latency_s * 1e3 / 20, n_requests).tolist()
        elapsed_s = order.duration_s if load.rate else n_requests * latency_s / load.concurrency
        return Turn(elapsed_s, n_requests * load.batch, 0, {"all": latencies_ms})


def make(name, load):
    return Contender(name, [b""], ["all"], load.batch)


def compare(measure_turn, loads=ONE_LOAD, make=make, plan=PLAN, **options):
    result = Result("a pair", ["A", "B"], "", "")
    measure(result, loads, make, measure_turn, plan, **options)
    return result


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


def test_turns_alternate_in_random_order_on_the_same_requests_and_the_warm_up_is_left_out():
    machine = Machine({"A": 0.01, "B": 0.01})
    [cell] = compare(machine, plan=Plan(duration_s=20)).cells
    warm_up, measured = machine.orders[:2], machine.orders[2:]
    assert [order.contender.name for order in warm_up] == ["A", "B"]
    rounds = [measured[number : number + 2] for number in range(0, len(measured), 2)]
    assert len(rounds) == 20
    assert all({a.contender.name, b.contender.name} == {"A", "B"} and a.start == b.start for a, b in rounds)
    assert len({a.start for a, _ in rounds}) > 10
    first = [a.contender.name for a, _ in rounds]
    assert 4 < first.count("A") < 16
    seconds = sum(order.duration_s for order in measured if order.contender.name == "A")
    assert seconds == pytest.approx(20)
    assert cell.measured["A"].n_requests == pytest.approx(20 * 4 / 0.01, rel=0.01)


def test_a_seed_repeats_a_run():
    def starts(seed):
        machine = Machine({"A": 0.01, "B": 0.01})
        compare(machine, plan=Plan(seed=seed))
        return [(order.contender.name, order.start) for order in machine.orders]

    assert starts(1) == starts(1) != starts(2)


@pytest.mark.parametrize(
    ("latency_s", "load", "expected"),
    [
        (0.01, Load(1, 1), (12, 1.0)),
        (0.5, Load(1, 1), (8, 1.5)),
        (1.0, Load(1, 1), (MIN_ROUNDS, 2.0)),
        (4.0, Load(1, 1), (MIN_ROUNDS, 2.0)),  # six turns of one request
        (18.0, Load(1, 1), (2, 6.0)),
        (50.0, Load(1, 1), (1, 12.0)),
        (0.01, Load(1, rate=5.0), (MIN_ROUNDS, 2.0)),  # longer ones, in which queues build up
    ],
)
def test_turns_are_many_and_short_as_far_as_the_requests_allow(latency_s, load, expected):
    assert turns_of(12.0, latency_s, load) == expected


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
        "With A the client was 5.0 ms late, which its latencies hold: it wants more CPU.",
        "With B the client itself was the bottleneck: it used 97% of a core.",
        "With B the client was 5.0 ms late, which its latencies hold: it wants more CPU.",
    ]


def test_errors_and_time_outs_are_counted_and_reach_the_verdict():
    def measure_turn(order):
        bad = order.contender.name == "B"
        return Turn(
            1.0, 90, 7 * bad, {"all": [1.0] * 90}, n_timeouts=3 * bad, first_error="out of luck" if bad else None
        )

    result = compare(measure_turn, plan=Plan(duration_s=6))
    b = result.cells[0].measured["B"]
    assert (b.n_requests, b.n_errors, b.n_timeouts, b.first_error) == (600, 42, 18, "out of luck")
    assert result.cells[0].measured["A"].n_errors == 0
    assert "B failed 42 requests." in result.verdict
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


def test_latencies_are_kept_by_group_where_there_are_several():
    def measure_turn(order):
        return Turn(1.0, 3, 0, {"0": [1.0, 2.0], "0.5": [9.0]})

    [cell] = compare(measure_turn).cells
    assert cell.measured["A"].groups_ms["0"][100] == 2
    assert cell.measured["A"].groups_ms["0.5"][50] == 9
    assert cell.measured["A"].latencies_ms[100] == 9


def test_a_request_that_would_take_longer_than_the_timeout_is_not_tried_and_named():
    result = compare(Machine({"A": 0.5, "B": 0.05}), [Load(64, 4), Load(1, 1)], plan=Plan(timeout_s=30))
    light, heavy = result.cells
    assert light.load == Load(1, 1)
    assert heavy.not_measured == {
        "A": "a request would take about 128 s, longer than the timeout of 30 s, at the 2 rows/s that lighter loads "
        "reached"
    }
    assert heavy.measured.keys() == {"B"}


def test_a_contender_that_times_out_while_warming_up_is_not_measured():
    def measure_turn(order):
        late = order.contender.name == "A"
        return Turn(30.0, 0 if late else 5, 0, {"all": [] if late else [9.0] * 5}, n_timeouts=4 * late)

    [cell] = compare(measure_turn).cells
    assert cell.not_measured == {"A": "no answer within the timeout of 30 s"}
    assert cell.measured.keys() == {"B"}


def test_a_contender_may_be_missing_for_a_reason():
    def some(name, load):
        return "no GPU" if name == "B" else make(name, load)

    result = compare(Machine({"A": 0.01}), make=some)
    assert result.cells[0].not_measured == {"B": "no GPU"}
    assert result.verdict == "Nothing was compared."


class Dying(Machine):
    """Fails from its tenth turn on."""

    def __call__(self, order):
        turn = super().__call__(order)
        return Turn(0.2, 1, 30, {"all": [9.0]}, first_error="Connection reset") if len(self.orders) >= 10 else turn


def test_a_server_that_goes_away_leaves_what_was_measured():
    machine = Dying({"A": 0.01, "B": 0.01})
    gone = lambda: "killed" if len(machine.orders) >= 10 else None  # noqa: E731
    result = compare(machine, [Load(1, 4), Load(1, 16)], gone=gone)
    assert result.failed
    assert result.notes == ["The server went away (killed) after 0 of 2 loads."]
    [cell] = result.cells
    assert sum(measured.n_errors for measured in cell.measured.values()) == 30
    assert cell.compared["B"].throughput.low > 0
    assert len(machine.orders) == 10


def test_failures_of_a_server_that_is_there_do_not_end_the_run():
    result = compare(Dying({"A": 0.01, "B": 0.01}), [Load(1, 4), Load(1, 16)], gone=lambda: None)
    assert len(result.cells) == 2
    assert not result.failed


def test_ctrl_c_leaves_what_was_measured_and_goes_on():
    machine = Machine({"A": 0.01, "B": 0.01})
    result = Result("a pair", ["A", "B"], "", "")

    def measure_turn(order):
        if len(machine.orders) == 40:
            raise KeyboardInterrupt
        return machine(order)

    with pytest.raises(KeyboardInterrupt):
        measure(result, [Load(1, 1), Load(1, 4), Load(1, 16)], make, measure_turn)
    assert result.notes == ["Interrupted after 1 of 3 loads."]
    assert [cell.load.concurrency for cell in result.cells] == [1, 4]
    assert result.cells[1].compared["B"].throughput.high < 2
    assert not result.failed
    assert result.verdict


def test_ctrl_c_before_anything_was_measured_leaves_no_empty_cell():
    def measure_turn(order):
        raise KeyboardInterrupt

    result = Result("a pair", ["A", "B"], "", "")
    with pytest.raises(KeyboardInterrupt):
        measure(result, [Load(1, 1)], make, measure_turn)
    assert result.cells == []
    assert result.verdict == "Nothing was compared."


def test_every_turn_is_announced_and_can_be_watched():
    seen, watched, inside = [], [], []
    machine = Machine({"A": 0.01, "B": 0.01})

    @contextmanager
    def around(name):
        inside.append(name)
        yield
        watched.append((inside.pop(), machine.orders[-1].contender.name))

    compare(
        machine, around=around, on_progress=lambda at: seen.append((at.contender, at.fraction, dict(at.cell.measured)))
    )
    assert [name for name, *_ in seen[:-1]] == [order.contender.name for order in machine.orders]
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert seen[4][2].keys() == {"A", "B"}  # figures while it runs
    assert len(watched) == len(machine.orders)
    assert all(a == b for a, b in watched)


def test_what_timed_out_is_waited_for_before_the_other_contender_has_its_turn():
    orders = []

    def measure_turn(order):
        orders.append((order.contender.name, order.load))
        late = order.contender.name == "A" and order.load.rate is not None
        return Turn(1.0, 5, 0, {"all": [9.0] * 5}, n_timeouts=2 * late)

    compare(measure_turn, [Load(8, rate=9.0)])
    after_a = [orders[index + 1] for index, order in enumerate(orders) if order == ("A", Load(8, rate=9.0))]
    assert after_a == [("A", Load(8, concurrency=1))] * len(after_a)
