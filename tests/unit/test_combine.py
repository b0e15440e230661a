import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.readability.combine import combine

scores = st.floats(-10, 10, width=32)
weights = st.floats(0, 1, width=32)


def f32(*values):
    return np.array(values, np.float32)


@given(weights, scores, scores)
def test_blend_lies_between_the_two_scores(weight, bert, forest):
    got = combine(f32(weight), f32(bert), f32(forest))
    slack = 1e-5
    assert got.dtype == np.float32
    assert min(bert, forest) - slack <= got[0] <= max(bert, forest) + slack


def test_blend_is_the_weighted_average_row_by_row():
    got = combine(f32(0.25, 0.5, 0.75), f32(4, 4, 4), f32(0, 2, -4))
    assert got.tolist() == [1, 3, 2]


@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf])
def test_unused_score_never_matters(other):
    assert combine(f32(0, -0.0, 1), f32(other, other, 1.5), f32(2.5, 2.5, other)).tolist() == [2.5, 2.5, 1.5]
