"""The comparison as a gate, on some of the variants that tests/prove_gate.py tries all of."""

import pytest

from mutants.build import HARMLESS, WRONG
from prove_gate import decisions

NAMES = [
    "rows_reversed",
    "last_request_wrong_under_concurrency",
    "batches_over_8_wrong",
    "nan_for_minus_zero",
    "two_instances",
    "rows_permuted_and_restored",
]


@pytest.fixture(scope="module")
def verdicts():
    """What each comparison decided."""
    return {it.name: it for it in decisions(NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_gate_fails_a_wrong_variant_and_no_harmless_one(verdicts, name):
    assert verdicts[name].is_met, verdicts[name].said


def test_variants_are_many_and_each_is_of_one_kind():
    assert len(WRONG) >= 40
    assert len(HARMLESS) >= 40
    assert not set(WRONG) & set(HARMLESS)
