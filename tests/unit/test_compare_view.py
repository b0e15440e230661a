"""A comparison's tables on the terminal."""

import re
from itertools import pairwise

import sample_results
from rich.console import Console

from dualpath.cli import compare_view


def test_a_ratio_that_is_not_to_be_taken_as_it_stands_says_why_below_it(capsys):
    compare_view.show(sample_results.doubtful(), Console(width=200))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    below = [cells for above, cells in pairwise(lines) if above[:1] == ["orchestrator"] and cells[:1] == [""]]
    assert [[cell for cell in cells if cell] for cells in below] == [
        ["the client was the bottleneck"],
        ["no verdict: ensemble_all cannot keep up"],
    ]
    assert [cells.index(next(filter(None, cells))) for cells in below] == [2, 6]  # throughput; at a rate p50


def test_nothing_is_cut_off_on_a_narrow_terminal(capsys):
    compare_view.show(sample_results.doubtful(), Console(width=80))
    out = capsys.readouterr().out
    assert "…" not in out
    for whole in ("│  BERT_WEIGHT 0.5│", "┃rows/s┃", "┃p50 ms┃p99 ms┃", "┃tolerance┃", "p50 ratio┃"):
        assert whole in out
    assert max(map(len, out.splitlines())) <= 80


def test_why_nothing_was_measured_stands_below_a_table_that_keeps_its_form(capsys):
    result = sample_results.doubtful()
    cell = result.cells[0]
    del cell.measured["orchestrator"]
    cell.compared.clear()
    cell.not_measured["orchestrator"] = "a request would take about 31 s, longer than the timeout of 30 s"
    compare_view.show(result, Console(width=80))
    out = " ".join(capsys.readouterr().out.split())
    assert "orchestrator was not measured: a request would take about 31 s, longer than the timeout of 30 s." in out
    assert re.search("│orchestrator│ *–│", out)
