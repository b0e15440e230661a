"""How a run goes: its turns, what is left out, and how it ends; on turns that are made up instead of waited for."""

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager

import pytest
import virtual_time
from made_up_turns import Machine, compare, make

from dualpath.compare import load as loading
from dualpath.compare.load import Contender, Turn, run_open_turn
from dualpath.compare.result import Load, Result
from dualpath.compare.run import MIN_ROUNDS, Measurement, Timing, turns_of


def test_turns_alternate_in_random_order_on_the_same_requests_and_the_warm_up_is_left_out():
    machine = Machine({"A": 0.01, "B": 0.01})
    [cell] = compare(machine, plan=Timing(duration_s=20)).cells
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
        compare(machine, plan=Timing(seed=seed))
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


def test_latencies_are_kept_by_group_where_there_are_several():
    def measure_turn(order):
        return Turn(1.0, 3, 0, {"0": [1.0, 2.0], "0.5": [9.0]})

    [cell] = compare(measure_turn).cells
    assert cell.measured["A"].groups_ms["0"][100] == 2
    assert cell.measured["A"].groups_ms["0.5"][50] == 9
    assert cell.measured["A"].latencies_ms[100] == 9


def test_a_request_that_would_take_longer_than_the_timeout_is_not_tried_and_named():
    result = compare(Machine({"A": 0.5, "B": 0.05}), [Load(64, 4), Load(1, 1)], plan=Timing(timeout_s=30))
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
    """Fails from its twelfth turn on, the second of the fifth round."""

    def __call__(self, order):
        turn = super().__call__(order)
        return Turn(0.2, 1, 30, {"all": [9.0]}, first_error="Connection reset") if len(self.orders) >= 12 else turn


def test_a_server_that_goes_away_leaves_what_was_measured():
    machine = Dying({"A": 0.01, "B": 0.01})
    gone = lambda: "killed" if len(machine.orders) >= 12 else None  # noqa: E731
    result = compare(machine, [Load(1, 4), Load(1, 16)], gone=gone)
    assert result.failed
    assert result.notes == ["The server went away (killed) after 0 of 2 loads."]
    [cell] = result.cells
    assert sum(measured.n_errors for measured in cell.measured.values()) == 30
    assert cell.compared["B"].throughput.low > 0.5  # of the four rounds before
    assert len(machine.orders) == 12


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
        Measurement(result, [Load(1, 1), Load(1, 4), Load(1, 16)], make, measure_turn).run()
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
        Measurement(result, [Load(1, 1)], make, measure_turn).run()
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

    compare(machine, around=around, on_progress=lambda *at: seen.append(at))
    assert len(seen) == len(machine.orders) + 1
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert seen[0][0] == "4 clients, 1 row: warming up"
    assert re.fullmatch(r"4 clients, 1 row: [AB] 4\d\d rows/s, [AB] 4\d\d rows/s", seen[4][0])  # while it runs
    assert len(watched) == len(machine.orders)
    assert all(a == b for a, b in watched)


class Stalling:
    """Answers in 1 ms, but nothing between 1 and 2 s of each turn."""

    def __init__(self, stalls):
        self._stalls = stalls

    @asynccontextmanager
    async def __call__(self, url):
        async def send(request):
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(2 - now if self._stalls and 1 < now < 2 else 0.001)

        yield send


def test_a_stall_shows_in_the_p99_of_the_contender_that_stalls(monkeypatch):
    def make(name, load):
        return Contender(name, [b""], ["all"], load.batch, Stalling(name == "B"))

    def measure_turn(order):
        turn = run_open_turn("", order.contender, order.load.rate, order.duration_s, order.start)
        return virtual_time.run(turn, loading, monkeypatch)

    [cell] = compare(measure_turn, [Load(1, rate=50.0)], make, Timing(duration_s=60)).cells
    a, b = cell.measured.values()
    assert a.latencies_ms[99] == pytest.approx(1, abs=1e-3)
    assert b.latencies_ms[50] == pytest.approx(1, abs=1e-3)
    assert b.latencies_ms[99] == pytest.approx(970, abs=50)  # of 3 s a third stalls; 3 % of its requests wait longer
    assert cell.compared["B"].p99.low > 500


def test_what_timed_out_is_waited_for_before_the_other_contender_has_its_turn():
    orders, warmed = [], []

    def measure_turn(order):
        warmed.append(order.warm_up)
        orders.append((order.contender.name, order.load))
        late = order.contender.name == "A" and order.load.rate is not None
        return Turn(1.0, 5, 0, {"all": [9.0] * 5}, n_timeouts=2 * late)

    compare(measure_turn, [Load(8, rate=9.0)])
    after_a = [orders[index + 1] for index, order in enumerate(orders) if order == ("A", Load(8, rate=9.0))]
    assert after_a == [("A", Load(8, concurrency=1))] * len(after_a)
    assert not any(warm for warm, (_, load) in zip(warmed, orders, strict=True) if load.concurrency)
