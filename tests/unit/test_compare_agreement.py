"""Whether answers agree: made-up answers, no server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.compare.agreement import N_WORST, Agreement
from dualpath.compare.tolerance import EXACT, Tolerance, tolerances
from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

ATOL = 2e-5
CLOSE = Tolerance(ATOL)
CLASSES = np.array([2, 4, 1, 2])
PROBS = np.array([[0.5, 0.25], [0.125, 0.75], [0.0, -0.0], [0.3, 0.7]], np.float32)


def text(*values):
    return np.array([*values, None], np.object_)[:-1]


def compared(*pairs, tolerance=CLOSE):
    """Compare single values or lists, row by row, alone."""
    agreement = Agreement(("A", "B"), [f"row {number}" for number in range(len(pairs))], {"SCORE": tolerance})
    for number, (a, _) in enumerate(pairs):
        agreement.learn(number, {"SCORE": np.atleast_1d(np.array(a))[None]})
    for number, (_, b) in enumerate(pairs):
        agreement.judge("B", [number], {"SCORE": np.atleast_1d(np.array(b))[None]})
    [parity] = agreement.parities()
    return parity


@pytest.fixture
def pipeline():
    """Four rows with a class and probabilities, as the baseline answers them alone."""
    agreement = Agreement(
        ("A", "B"), [f"in.csv:{number + 2}" for number in range(4)], {"CLASS": EXACT, "PROBS": Tolerance(ATOL)}
    )
    for number in range(4):
        agreement.learn(number, answers(number))
    return agreement


def answers(*numbers):
    return {"CLASS": CLASSES[[*numbers]][:, None], "PROBS": PROBS[[*numbers]]}


def found(agreement):
    return {(it.other, it.output): it for it in agreement.parities()}


def test_rows_that_come_back_in_their_order_agree_whatever_is_beside_them(pipeline):
    for numbers in ([0], [1, 0], [3, 2, 1, 0], [2, 2]):
        pipeline.judge("B", numbers, answers(*numbers), "in a batch")
    assert [(it.ok, it.n_rows, it.n_equal) for it in pipeline.parities()] == [(True, 4, 4)] * 2


def test_rows_in_reverse_order_are_named_with_whose_answer_they_got(pipeline):
    for number in range(4):
        pipeline.judge("B", [number], answers(number))
    pipeline.judge("B", [0, 1, 2], answers(2, 1, 0), "in a batch of 3")
    classes = found(pipeline)["B", "CLASS"]
    assert classes.beyond == {"in a batch of 3": 2}
    assert sorted(map(str, classes.worst)) == [
        "in.csv:2, in a batch of 3, position 0; it is the answer to in.csv:4, at position 2: 2 and 1 (1 apart)",
        "in.csv:4, in a batch of 3, position 2; it is the answer to in.csv:2, at position 0: 1 and 2 (1 apart)",
    ]


def test_the_answer_of_another_request_is_named(pipeline):
    pipeline.judge("B", [0, 1], answers(0, 3), "under load")
    [worst] = found(pipeline)["B", "PROBS"].worst
    assert worst.place == "under load, position 1; it is the answer to in.csv:5, of another request"


def test_one_row_for_four_is_a_wrong_shape(pipeline):
    pipeline.judge("B", [0, 1, 2, 3], answers(0), "in a batch of 4")
    classes = found(pipeline)["B", "CLASS"]
    assert classes.beyond == {"in a batch of 4": 4}
    assert (classes.worst[0].baseline, classes.worst[0].other) == ("shape [1] a row", "shape [1, 1] for 4 rows")


def test_a_row_too_much_and_a_scalar_are_wrong_shapes(pipeline):
    pipeline.judge("B", [0, 1], answers(0, 1, 1), "in a batch of 2")
    pipeline.judge("B", [0], {"CLASS": np.array(2), "PROBS": PROBS[:1]})
    assert found(pipeline)["B", "CLASS"].beyond == {"in a batch of 2": 2, "alone": 1}


@pytest.mark.parametrize(
    ("wrong", "form"),
    [
        ({"CLASS": CLASSES[:1, None].astype(np.int32)}, ("type int64", "type int32")),
        ({"CLASS": CLASSES[:1]}, ("shape [1]", "shape []")),
        ({}, ("an output", "no output")),
    ],
)
def test_an_answer_of_another_form_is_said_in_words(pipeline, wrong, form):
    pipeline.judge("B", [0], {"PROBS": PROBS[:1], **wrong})
    [worst] = found(pipeline)["B", "CLASS"].worst
    assert (worst.baseline, worst.other) == form
    assert "apart" not in str(worst)


def test_an_output_that_both_leave_out_agrees():
    agreement = Agreement(("A", "B"), ["row"], {"X": EXACT, "Z": EXACT})
    agreement.learn(0, {"X": np.ones((1, 1))})
    agreement.judge("B", [0], {"X": np.ones((1, 1))})
    assert all(it.ok for it in agreement.parities())
    agreement.judge("B", [0], {"X": np.ones((1, 1)), "Z": np.ones((1, 1))})
    assert found(agreement)["B", "Z"].worst[0].baseline == "no output"


def test_a_baseline_that_contradicts_itself_comes_first(pipeline):
    pipeline.judge("B", [0, 1], answers(0, 1), "in a batch of 2")
    pipeline.judge("A", [0, 1], answers(1, 0), "in a batch of 2")
    first, second, *others = pipeline.parities()
    assert [(it.baseline, it.other, it.ok) for it in (first, second)] == [("A", "A", False)] * 2
    assert all(it.ok for it in others)


def test_rows_that_are_meant_to_differ_are_counted_apart():
    agreement = Agreement(
        ("A", "B"), ["one", "two"], {"X": EXACT}, excuse=lambda row, a, b: b["ROUTE"].item() == b"late"
    )
    for number in range(2):
        agreement.learn(number, {"X": np.ones((1, 1))})
    agreement.judge("B", [0, 1], {"X": np.array([[2], [1.0]]), "ROUTE": text(b"late", b"both")[:, None]}, "in a batch")
    [parity] = agreement.parities()
    assert (agreement.n_excused, parity.ok, parity.n_rows) == (1, True, 1)


def test_models_without_a_batch_dimension_are_compared_with_those_that_have_one():
    agreement = Agreement(("A", "B"), ["row"], {"X": EXACT}, (False, True))
    agreement.learn(0, {"X": np.arange(3)})
    agreement.judge("B", [0], {"X": np.arange(3)[None]})
    assert agreement.parities()[0].ok
    agreement.judge("B", [0], {"X": np.arange(3)})
    assert not agreement.parities()[0].ok


def test_within_the_tolerance_is_good_and_still_shown():
    parity = compared((1.0, 1.0 + 1e-5), (1.0, 1.0))
    assert parity.ok
    assert parity.n_equal == 1
    assert parity.worst[0].difference == pytest.approx(1e-5)


def test_the_worst_rows_come_first_and_are_few():
    parity = compared(*((0.0, number / 10) for number in range(20)))
    assert [row.where for row in parity.worst] == [f"row {number}" for number in range(19, 19 - N_WORST, -1)]


@pytest.mark.parametrize(
    ("a", "b", "n_equal", "ok"),
    [
        (np.nan, np.nan, 1, True),
        (np.nan, 1.0, 0, False),
        (1.0, np.nan, 0, False),
        (-0.0, np.nan, 0, False),
        (np.inf, np.inf, 1, True),
        (np.inf, -np.inf, 0, False),
        (np.inf, 1.0, 0, False),
        (0.0, -0.0, 0, True),
    ],
)
@pytest.mark.parametrize("tolerance", [Tolerance(ATOL), Tolerance(0, 1e-3, 128)])
def test_nan_and_infinity_agree_with_themselves_only(a, b, n_equal, ok, tolerance):
    parity = compared((1.0, 1.0), (a, b), (1.0, 1.0), tolerance=tolerance)
    assert (parity.n_equal, parity.ok) == (2 + n_equal, ok)
    if not ok:
        assert parity.worst[0].where == "row 1"
        assert parity.mean == 0  # of the other rows


def test_a_nan_of_other_bits_is_nan():
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    parity = compared((quiet, other))
    assert (parity.n_equal, parity.ok, parity.largest) == (0, True, 0)


def test_of_a_tensor_the_element_that_differs_most_is_named():
    parity = compared(([1.0, 2.0, 3.0], [1.0, 2.5, 2.9]), tolerance=Tolerance(1.0))
    assert (parity.worst[0].baseline, parity.worst[0].other, parity.largest) == (2.0, 2.5, 0.5)


def test_large_integers_are_told_apart():
    assert compared((2**62, 2**62 + 1), tolerance=EXACT).largest == 1


def test_texts_are_equal_or_not_whatever_their_case():
    parity = compared(
        *[(text(a), text(b)) for a, b in ((b"bert", b"bert"), (b"bert", b"Bert"), (b"", b""))], tolerance=EXACT
    )
    assert (parity.n_equal, parity.largest, parity.ok) == (2, 1, False)
    assert str(parity.worst[0]) == "row 1: bert and Bert"


def test_empty_tensors_agree():
    assert compared((np.empty((2, 0), np.float32), np.empty((2, 0), np.float32))).ok


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1))
def test_any_answers_are_compared(pairs):
    parity = compared(*((np.float32(a), np.float32(b)) for a, b in pairs))
    assert parity.ok == all(a == b or (a != a and b != b) or abs(a - b) <= ATOL for a, b in pairs)
    assert 0 <= parity.n_equal <= parity.n_rows == len(pairs)
    assert len(parity.worst) <= N_WORST


@given(st.permutations(range(4)))
def test_any_order_but_the_right_one_is_caught(order):
    agreement = Agreement(("A", "B"), ["a", "b", "c", "d"], {"X": EXACT})
    for number in range(4):
        agreement.learn(number, {"X": np.array([[number]])})
    agreement.judge("B", range(4), {"X": np.array(order)[:, None]}, "in a batch of 4")
    assert agreement.parities()[0].ok == (order == [0, 1, 2, 3])


OUTPUTS = tuple(
    Tensor(dtype, f"TYPE_{dtype}", (1,))
    for dtype in ("FP16", "FP32", "FP64", "BF16", "INT64", "UINT8", "BOOL", "STRING")
)


def test_by_default_floats_have_units_in_the_last_place_and_all_else_is_exact():
    found = tolerances(OUTPUTS, {}, {})
    assert {name: str(it) for name, it in found.items()} == {
        "FP16": "4 ulp",
        "FP32": "128 ulp",
        "FP64": "4194304 ulp",
        "BF16": "4 ulp",
        "INT64": "exact",
        "UINT8": "exact",
        "BOOL": "exact",
        "STRING": "exact",
    }
    sizes = {name: float(found[name].allowed(np.array([33.0]), 0.0)[0]) for name in ("FP16", "FP32")}
    assert sizes["FP16"] == pytest.approx(33 * 4 / 1024)
    assert sizes["FP32"] == pytest.approx(33 * 128 / 2**23)


def test_a_value_near_zero_may_be_off_as_far_as_its_element_usually_may():
    near_zero = [([1.0, 100.0], [1.0, 100.0])] * 3
    tolerance = tolerances([Tensor("X", "TYPE_FP32", (2,))], {}, {})["X"]
    assert compared(*near_zero, ([0.0, 100.0], [1e-5, 100.0]), tolerance=tolerance).ok
    assert not compared(*near_zero, ([0.0, 100.0], [1e-4, 100.0]), tolerance=tolerance).ok


def test_a_tolerance_for_all_is_for_floats_and_one_for_an_output_for_any_number():
    found = tolerances(OUTPUTS, {"": 1.0, "UINT8": 2.0}, {"FP64": 0.5}, known=2e-5)
    assert {name: str(it) for name, it in found.items()} == {
        **dict.fromkeys(("FP16", "FP32", "BF16"), "1"),
        "FP64": "1 + 0.5 relative",
        "UINT8": "2",
        **dict.fromkeys(("INT64", "BOOL", "STRING"), "exact"),
    }
    assert str(tolerances(OUTPUTS, {}, {}, known=2e-5)["FP32"]) == "2e-05"


@pytest.mark.parametrize(
    ("atol", "message"),
    [
        ({"": -1.0}, "--atol: expected a number of 0 or more, got -1. Give another."),
        ({"X": 1.0}, "--atol: expected one of the outputs FP16, FP32, "),
        ({"STRING": 1.0}, "--atol: expected an output of numbers, got 'STRING' of texts. Use --ignore STRING."),
    ],
)
def test_a_tolerance_that_cannot_be_is_refused(atol, message):
    with pytest.raises(UserError) as caught:
        tolerances(OUTPUTS, atol, {})
    assert str(caught.value).startswith(message)
