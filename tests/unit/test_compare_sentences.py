"""How a result says which answers are wrong."""

from dualpath.compare.result import CONFIG, Parity, Result, WorstRow
from dualpath.compare.verdict import sentence

EXACT = "exact"


def parity(output, beyond, n_beyond=3, other="B", tolerance=EXACT):
    worst = WorstRow("in.csv:2", 2, 3, 1.0, "in a batch of 4, position 1")
    counts = dict.fromkeys(beyond, 0) | {beyond[0]: n_beyond}
    return Parity("A", other, output, 5, 4, 1.0, 0.1, 0.0, (worst,), tolerance, 20, counts)


def said(*parities):
    return sentence(Result("A and B", ["A", "B"], parity=list(parities)))


def test_outputs_that_are_wrong_in_the_same_ways_are_named_together():
    way = ["in a batch of 4", "under load"]
    text = said(parity("X", way), parity("Y", way), parity("Z", ["alone"]))
    assert text == (
        "X, Y: alone equal, in a batch of 4 and under load WRONG: 3 of 20 answers differ. First look at X of in.csv:2, "
        "in a batch of 4, position 1: 2 and 3 (1 apart). "
        "Z: alone WRONG: 3 of 20 answers differ. First look at in.csv:2, in a batch of 4, position 1: 2 and 3 "
        "(1 apart)."
    )


def test_of_shares_that_differ_the_largest_is_said():
    text = said(parity("X", ["alone"], 2), parity("Y", ["alone"], 3, tolerance="128 ulp"))
    assert text.startswith("X, Y: alone WRONG: up to 3 of 20 answers beyond the tolerance. First look at X of in.csv:2")


def test_a_baseline_that_contradicts_itself_is_said_first():
    text = said(parity("X", ["under load"], other="A"), parity("X", ["under load"]))
    assert text.startswith("A CONTRADICTS ITSELF: X: alone equal, under load WRONG: 3 of 20 answers differ.")
    assert " X: alone equal, under load WRONG" in text.partition("apart).")[2]


def test_configs_that_differ_are_said_for_each_output():
    rows = [
        Parity("A", "B", name, 0, 0, 0.0, 0.0, 0.0, (WorstRow(CONFIG, "TYPE_FP32", it, 0.0),), EXACT, 0, {CONFIG: 1})
        for name, it in (("X", "TYPE_FP16"), ("Y", "no output"))
    ]
    assert said(*rows) == (
        f"X: WRONG {CONFIG}: TYPE_FP32 of A, TYPE_FP16 of B. Y: WRONG {CONFIG}: TYPE_FP32 of A, no output of B."
    )
