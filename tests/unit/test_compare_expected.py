"""Rows that are meant to differ, answers that a file expects, and a comparison that shows nothing."""

import itertools
import json

import numpy as np
import pytest
from served_models import Model, served

from dualpath.compare import compare
from dualpath.compare.report import write
from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

X = Tensor("X", "TYPE_FP32", (1,))
Y, ROUTE = Tensor("Y", "TYPE_FP32", (1,)), Tensor("ROUTE", "TYPE_STRING", (1,))


def double(inputs):
    return {"Y": inputs["X"] * 2}


def short_cut(inputs):
    """Answers 0 for 3 and more, and says so."""
    cut = inputs["X"] >= 3
    return {
        "Y": np.where(cut, 0, inputs["X"] * 2).astype(np.float32),
        "ROUTE": np.where(cut, b"cut", b"").astype(object),
    }


def tiring():
    """Return a model that fails every second request after the first ten."""
    numbers = itertools.count()

    def answer(inputs):
        if (number := next(numbers)) >= 10 and number % 2:
            raise RuntimeError("tired")
        return double(inputs)

    return answer


MODELS = {
    "double": Model(double, inputs=(X,), outputs=(Y,)),
    "short_cut": Model(short_cut, inputs=(X,), outputs=(Y, ROUTE)),
    "with_z": Model(double, inputs=(X,), outputs=(Y, Tensor("Z", "TYPE_FP32", (1,)))),
    "with_whole_z": Model(double, inputs=(X,), outputs=(Y, Tensor("Z", "TYPE_INT32", (1,)))),
    "tiring": Model(tiring(), inputs=(X,), outputs=(Y,)),
    "silent": Model(lambda inputs: {}, inputs=(X,), outputs=(Y,)),
}


@pytest.fixture
def found(tmp_path):
    """found(a, b, validation=None, **options) -> result, for the rows 1 to 4."""

    def found(a, b, validation=None, **options):
        path = tmp_path / "in.json"
        content = {"data": [{"X": [number]} for number in range(1, 5)]}
        path.write_text(json.dumps(content | ({"validation_data": validation} if validation else {})))
        with served(MODELS) as (url, _):
            return compare(a, b, url=url, input_file=path, concurrency=[1], batch=[1], duration_s=0.1, **options)

    return found


@pytest.mark.parametrize("expected", ["ROUTE=cut", "X>2.5", "Y=0"])
def test_rows_that_are_meant_to_differ_are_counted_apart_and_the_others_have_to_agree(found, expected):
    assert found("double", "short_cut").exit_code == 1
    result = found("double", "short_cut", expect_differences=[expected])
    assert result.exit_code == 0, result.verdict
    assert [(it.output, it.n_rows, it.n_equal) for it in result.parity] == [("Y", 2, 2)]
    assert result.n_excused >= 2
    assert f"{result.n_excused:,} answers were meant to differ, and were not compared." in result.verdict
    assert found("double", "short_cut", expect_differences=["X>3"]).exit_code == 1


def test_a_comparison_in_which_no_row_had_to_agree_fails(found):
    result = found("double", "short_cut", expect_differences=["X>0"])
    assert result.exit_code == 1
    assert any(
        note.startswith(f"Nothing had to agree: --expect-differences excused all {result.n_excused} answers.")
        for note in result.notes
    )
    result = found("silent", "silent")
    assert result.exit_code == 1
    assert (
        "Nothing was compared: neither model gave any of the outputs that both have. Give other rows." in result.notes
    )


def test_a_model_that_fails_only_under_load_does_not_pass(found):
    result = found("double", "tiring")
    assert (result.exit_code, [it.n_equal for it in result.parity]) == (1, [4])
    assert "tiring failed" in result.verdict


def test_an_output_that_only_the_baseline_has_or_has_of_another_type_fails_unless_it_is_ignored(found):
    result = found("short_cut", "double", expect_differences=["X>2.5"])
    assert result.exit_code == 1
    assert "ROUTE: WRONG in config.pbtxt: TYPE_STRING of short_cut, no output of double." in result.verdict
    assert found("short_cut", "double", expect_differences=["X>2.5"], ignore=["ROUTE"]).exit_code == 0
    result = found("with_z", "with_whole_z")
    assert (result.exit_code, [it.output for it in result.parity if not it.ok]) == (1, ["Z"])
    assert "Z: WRONG in config.pbtxt: TYPE_FP32 of with_z, TYPE_INT32 of with_whole_z." in result.verdict


def test_validation_data_are_held_to_both_models(found, tmp_path):
    expected = [{"Y": [number]} for number in (2, 4, 6, 9)]
    result = found("double", "double", expected)
    assert "validation_data" in write(result, tmp_path / "report").read_text(encoding="utf-8")
    wrong = [it for it in result.parity if it.beyond]
    assert (result.exit_code, [(it.baseline, it.other) for it in wrong]) == (
        1,
        [("validation_data", "double"), ("validation_data", "double (again)")],
    )
    where = f"{tmp_path / 'in.json'}: validation_data[3]"
    assert [(row.where, row.baseline, row.other) for row in wrong[0].worst] == [(where, 9, 8)]
    assert found("double", "double", [*expected[:3], {"Y": [8]}]).exit_code == 0
    assert found("double", "double", [{"Y": [2]}, {}, {}, {}]).exit_code == 0
    assert found("silent", "silent", [{"Y": [2]}, {}, {}, {}]).exit_code == 1
    with pytest.raises(UserError, match=r"validation_data\[0\]: expected outputs of the models \(Y\), got 'Z'"):
        found("double", "double", [{"Z": [1]}] * 4)
