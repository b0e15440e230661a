"""The report as a reader sees it: rendered by a real browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sample_results
from PIL import Image

from dualpath.compare.report.palette import DARK, LIGHT

LOOKS = (Path(__file__).parent / "looks.js").read_text()
SCHEMES = {"light": LIGHT, "dark": DARK}
DESKTOP, PHONE = 1280, 390

every_sample = pytest.mark.parametrize("sample", ["full", "failed", "doubtful", "bench", "precisions", "hostile"])
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_width = pytest.mark.parametrize("width", [DESKTOP, PHONE])


def ask(opened, question):
    return opened.page.evaluate(f"{LOOKS.strip()}.{question}()")


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


@every_sample
@every_scheme
def test_page_asks_for_nothing_and_complains_about_nothing(show, sample, scheme):
    opened = show(sample, scheme)
    opened.page.wait_for_load_state("networkidle")
    assert opened.trouble == []
    assert opened.page.locator(".verdict").inner_text()


@every_sample
@every_width
def test_page_fits_its_window(show, sample, width):
    opened = show(sample, width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert ask(opened, "beyond") == []


@every_sample
@every_scheme
@every_width
def test_every_text_can_be_read(show, sample, scheme, width):
    opened = show(sample, scheme, width)
    assert ask(opened, "faint") == []
    assert ask(opened, "collisions") == []


@every_scheme
def test_lines_and_bars_stand_out(show, scheme):
    found = ask(show("full", scheme), "strokes")
    for place in range(2):
        colour = "rgb({}, {}, {})".format(*rgb(SCHEMES[scheme][f"series-{place}"]))
        contrasts = [stroke["contrast"] for stroke in found if stroke["stroke"] == colour]
        assert len(contrasts) > 20
        assert min(contrasts) >= 3


@every_scheme
@every_width
def test_figures_are_painted(show, scheme, width):
    opened = show("full", scheme, width)
    figures = ask(opened, "figures")
    assert [figure["name"] for figure in figures] == [
        "ratios", "throughput", "latency", "latency-at-rate", "distribution", "timeline",
    ]  # fmt: skip
    for figure in figures:
        assert all(panel["width"] > 300 and panel["height"] > 120 for panel in figure["panels"])
        for panel in opened.page.locator(f"#{figure['name']} svg[role=img]").all():
            pixels = np.asarray(Image.open(io.BytesIO(panel.screenshot())).convert("RGB")).reshape(-1, 3).astype(int)
            for name in ("paper", "series-1"):
                nearby = np.abs(pixels - rgb(SCHEMES[scheme][name])).max(axis=1) < 8
                assert nearby.sum() > 30, (figure["name"], name)


@every_width
def test_both_timelines_lie_on_one_axis(show, width):
    opened = show("full", width=width)
    spans = {}
    for span in sample_results.spans():  # a row is left empty before the second contender
        spans[len(spans) + (span.contender == sample_results.B)] = span
    bars = ask(opened, "bars")
    assert [bar["row"] for bar in bars] == list(spans)
    whole = bars[0]
    scale = whole["width"] / (spans[0].end_ms - spans[0].start_ms)
    for bar in bars:
        span = spans[bar["row"]]
        assert bar["left"] == pytest.approx(whole["left"] + scale * span.start_ms, abs=1.5)
        assert bar["right"] == pytest.approx(whole["left"] + scale * span.end_ms, abs=1.5)
    assert [bar["top"] for bar in bars] == sorted(bar["top"] for bar in bars)


def test_wide_table_scrolls_inside_its_box_on_a_phone(show):
    page = show("full", width=PHONE).page
    box = page.locator(".box", has=page.locator("#loads"))
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def test_numbers_of_a_column_align(show):
    page = show("full").page
    edges = page.locator("#loads tbody tr td:nth-last-child(5)").evaluate_all(
        "cells => cells.map(cell => { const range = document.createRange(); range.selectNodeContents(cell);"
        " return [range.getBoundingClientRect().right, cell.textContent.split('.')[1].length]; })"
    )
    assert len(edges) > 20
    assert max(right for right, _ in edges) - min(right for right, _ in edges) < 0.5
    assert len({digits for _, digits in edges}) == 1
    assert page.evaluate("getComputedStyle(document.querySelector('td')).fontVariantNumeric") == "tabular-nums"


def test_print_shows_every_column_on_a_landscape_page(show):
    opened = show("full", width=1030, media="print")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1030


def test_print_is_light_where_the_screen_is_dark(show):
    def paper(media):
        page = show("full", "dark", media=media).page
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert paper("screen") == "rgb({}, {}, {})".format(*rgb(DARK["paper"]))
    assert paper("print") == "rgb({}, {}, {})".format(*rgb(LIGHT["paper"]))


def test_report_names_the_failure_the_rows_and_what_was_not_measured(show):
    failed, bench = show("failed").page, show("bench").page
    assert failed.locator("text=The run found a failure.").is_visible()
    assert failed.locator("#worst >> text=excerpts.csv:301").is_visible()
    assert failed.locator("text=Stub process 'bert-large_0_0' is not healthy").is_visible()
    row = bench.locator("tr", has_text="no GPU").last.locator("td").all_inner_texts()
    assert [cell.strip() for cell in row] == ["everything in Triton, GPU", "no GPU", "every load"]


def test_verdict_on_top_is_one_sentence(show):
    page = show("failed").page
    assert page.locator(".verdict").inner_text() == "Scores differ: 1 of 512 rows is beyond the tolerance of 2e-5."
    assert page.locator(".more").inner_text() == "The server died in the second load."
    assert page.locator(".verdict").bounding_box()["y"] < 100


def test_output_of_which_no_row_was_answered_is_not_called_equal(show):
    page = show("bench").page
    assert page.locator("#parity td").last.inner_text() == "not compared"
    assert "NaN" not in page.locator("#parity").inner_text()
    assert "equal" not in page.locator("#summary").inner_text()


def test_markup_in_names_stays_text(show):
    opened = show("hostile")
    assert "<script>alert(1)</script>" in opened.page.locator("body").inner_text()
    assert opened.page.locator("script").count() == 0
    assert opened.trouble == []
