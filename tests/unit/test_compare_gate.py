"""A gate decides on intervals, and counts rows that are meant to differ apart."""

import numpy as np
import pytest

from dualpath.compare import gate
from dualpath.compare.expected import Filter, check_filters, excuse
from dualpath.compare.gate import Condition
from dualpath.compare.inputs import Row
from dualpath.compare.result import Cell, Compared, Load, Measured, Result
from dualpath.compare.stats import Ratio
from dualpath.errors import UserError
from dualpath.readability.contract import Tensor


def checked(condition, ratio, **cell):
    cell = Cell(Load(1, 1), compared={"B": Compared(ratio, ratio, ratio)} if ratio else {}, **cell)
    result = Result("a pair", ["A", "B"], cells=[cell])
    gate.check(result, [condition])
    return result


@pytest.mark.parametrize(
    ("condition", "ratio", "outcome", "code"),
    [
        (Condition("p50", 1.05), Ratio(1.0, 0.98, 1.04), "passed", 0),
        (Condition("p50", 1.05), Ratio(1.0, 0.98, 1.06), "undecided", 3),
        (Condition("p50", 1.05), Ratio(1.04, 1.03, 1.06), "undecided", 3),
        (Condition("p99", 1.05), Ratio(1.1, 1.06, 1.2), "failed", 1),
        (Condition("throughput", 0.95), Ratio(1.0, 0.96, 1.04), "passed", 0),
        (Condition("throughput", 0.95), Ratio(1.0, 0.94, 1.04), "undecided", 3),
        (Condition("throughput", 0.95), Ratio(0.9, 0.85, 0.94), "failed", 1),
        (Condition("throughput", 0.95), Ratio(1.0, 0.0, np.inf), "undecided", 3),
    ],
)
def test_a_condition_holds_if_the_whole_interval_does(condition, ratio, outcome, code):
    result = checked(condition, ratio)
    assert ([it.outcome for it in result.gate], result.exit_code) == ([outcome], code)


def test_what_allows_no_verdict_decides_nothing():
    good = Ratio(1.0, 0.99, 1.01)
    assert checked(Condition("p50", 1.05), good, no_verdict={"A": "cannot keep up"}).gate[0].why == "cannot keep up"
    assert checked(Condition("p50", 1.05), good, client_bound=["B"]).exit_code == 3
    assert checked(Condition("p50", 0.5), good, client_bound=["B"]).exit_code == 1
    assert checked(Condition("p50", 1.05), None, not_measured={"B": "no GPU"}).gate[0].why == "no GPU"
    nothing = Result("a pair", ["A", "B"])
    gate.check(nothing, [Condition("p50", 1.05)])
    assert nothing.exit_code == 3


def test_a_failure_comes_before_what_is_undecided_and_ctrl_c_before_both():
    result = checked(Condition("p50", 1.05), Ratio(1.0, 0.9, 1.1))
    result.failed = True
    assert result.exit_code == 1
    result.interrupted = True
    assert result.exit_code == 130


@pytest.mark.parametrize(
    ("load", "n_failed", "fails"),
    [
        (Load(1, 4), {"A": 0, "B": 1}, True),
        (Load(1, 4), {"A": 0, "B": 0}, False),
        (Load(1, 4), {"A": 2, "B": 1}, False),
        (Load(1, 4), {"B": 1}, False),
        (Load(1, rate=50.0), {"A": 0, "B": 1}, False),
    ],
)
def test_a_contender_fails_if_it_fails_requests_under_a_load_that_the_baseline_bears(load, n_failed, fails):
    measured = {name: Measured(1.0, 10, n, 0, None, {}) for name, n in n_failed.items()}
    assert gate.fails_under_load(Result("a pair", ["A", "B"], cells=[Cell(load, measured=measured)])) is fails


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("GAIN=0.7", [1]),
        ("GAIN<0.7", [0]),
        ("GAIN>0.5", [1]),
        ("ROUTE=late", [2]),
        ("ROUTE=löwe = x", []),
        ("FLAG=true", [0, 1]),
        ("NONE=1", []),
    ],
)
def test_rows_are_told_by_an_input_or_an_output(text, rows):
    asked = [Row(str(gain), {"GAIN": np.float32([gain])} if gain else {}) for gain in (0.1, 0.7, None)]
    answers = [
        {"ROUTE": np.array([route], np.object_), "FLAG": np.array([flag])}
        for route, flag in ((b"both", True), (b"both", True), (b"late", False))
    ]
    is_excused = excuse([Filter.parse(text)], asked)
    assert [number for number in range(3) if is_excused(number, {}, answers[number])] == rows


def test_a_filter_of_another_form_is_refused():
    with pytest.raises(UserError, match="--expect-differences: expected NAME=VALUE, NAME<VALUE or NAME>VALUE, got 'x'"):
        Filter.parse("x")
    with pytest.raises(UserError, match="--expect-differences: expected a number, true or false for X, got 'a'"):
        Filter.parse("X=a").holds(np.ones(1))


def test_a_filter_that_no_row_can_fit_is_refused():
    tensors = [Tensor("TEXT", "TYPE_STRING", (1,)), Tensor("GAIN", "TYPE_FP32", (1,))]
    check_filters([Filter.parse("GAIN<1"), Filter.parse("TEXT=a")], tensors)
    with pytest.raises(UserError, match="--expect-differences: expected one of TEXT, GAIN, got 'GAINS'"):
        check_filters([Filter.parse("GAINS=1")], tensors)
    with pytest.raises(UserError, match="expected TEXT=VALUE, as it is a text, got TEXT<15"):
        check_filters([Filter.parse("TEXT<15")], tensors)
