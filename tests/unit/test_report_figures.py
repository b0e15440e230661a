"""What the report's tables and figures show of doubts, of parity and of long names."""

import re

import pytest
import sample_results
from matplotlib.figure import Figure

from dualpath.compare.report import plots, render, tables, write
from dualpath.compare.report.palette import LIGHT


def test_ratios_that_are_not_to_be_taken_as_they_stand_say_why(tmp_path):
    def why(result):
        page = write(result, tmp_path / "report").read_text(encoding="utf-8")
        cells = re.findall(r'<td class="ratio doubtful">([\d.]+)<small>.*?</small>(.*?)</td>', page)
        return [(value, re.sub("<.*?>", "", why)) for value, why in cells]

    assert why(sample_results.full()) == []
    assert why(sample_results.doubtful()) == [
        *[("1.99", "the client was the bottleneck"), ("0.50", ""), ("0.93", "")],
        *[("1.00", ""), ("0.31", "no verdict: ensemble_all cannot keep up"), ("0.20", "")],
    ]


def test_summary_leaves_out_ratios_without_a_verdict():
    _, other = tables.summary(sample_results.doubtful())
    assert other["ratios"] == ["0.97 to 1.99×", "0.50 to 1.03×", "0.52 to 1.31×"]  # p50 of 0.31 at the highest rate


def grey(panel):
    """Points with a grey edge in a panel."""
    with render.drawing():
        axes = Figure().subplots()
        panel.draw(axes)
    lines = [line for line in axes.lines if line.get_markeredgecolor() == LIGHT["muted"] and line.get_marker() in "os"]
    return [(x, round(y, 1)) for line in lines for x, y in line.get_xydata()]


def test_points_in_doubt_are_grey_in_every_figure_and_its_key_says_so():
    found = {plot.name: plot for plot in plots.speed(sample_results.doubtful())}
    assert all(plots.IN_DOUBT in plot.keys for plot in found.values())
    assert grey(found["throughput"].panels[0]) == [(16, 46.4)]
    assert grey(found["latency"].panels[0]) == [(16, 320), (16, 768)]
    assert [x for x, _ in grey(found["latency-at-rate"].panels[0])] == [20, 20]
    assert [y for _, y in grey(found["ratios"].panels[1])] == [2, 5]
    assert "orchestrator at 16: the client was the bottleneck." in found["throughput"].panels[0].alt
    assert "0.31 [0.28, 0.34] (no verdict: ensemble_all cannot keep up)" in found["ratios"].panels[1].alt
    for plot in plots.speed(sample_results.full()):
        assert plots.IN_DOUBT not in plot.keys
        assert grey(plot.panels[0]) == []


@pytest.mark.parametrize("sample", ["full", "precisions", "hostile"])
def test_keys_of_a_png_lie_within_it_and_above_the_panels(sample, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    with render.drawing():
        for plot in plots.speed(getattr(sample_results, sample)()):
            render.png(plot, tmp_path / "figure.png")
    assert any(figure.legends for figure in saved)
    for figure in saved:
        figure.set_dpi(render.DPI)
        figure.draw_without_rendering()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        top = max(axes.get_tightbbox().y1 for axes in figure.axes if axes.get_visible())
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= top for box in boxes)


def test_parity_names_whom_a_contender_was_held_against(tmp_path):
    page = write(sample_results.precisions(), tmp_path / "report").read_text(encoding="utf-8")
    table = re.search(r'<table id="parity">(.*?)</table>', page, re.DOTALL)[1]
    found = re.findall(r'#mark-(\d)-figure_1"></use></svg><span>(.*?)</span>', table)
    assert found[1] == ("0", "all in Triton, CPU, float32")
    assert found[3] == ("3", "all in Triton, CPU, bfloat16")
    assert [place for place, _ in found] == ["1", "0", "4", "3"]
