"""The report's page and files, without a browser."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import sample_results
from PIL import Image

from dualpath.compare import report
from dualpath.compare.report import check, page, plots, wording, write
from dualpath.compare.report.palette import DARK, LIGHT, MARKERS
from dualpath.compare.result import Load, Result
from dualpath.compare.stats import Ratio
from dualpath.errors import UserError

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Read(HTMLParser):
    """A page's tags, texts and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images: list[str | None] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[name] for name in ("src", "href", "xlink:href", "action", "data") if name in found]
        self.addresses += re.findall(r"url\((.*?)\)", found.get("style") or "")
        self.images += [found.get("aria-label")] if found.get("role") == "img" else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(
    scope="module",
    params=["full", "interrupted", "failed", "noisy", "doubtful", "bench", "precisions", "hostile", "empty"],
)
def written(request, tmp_path_factory):
    """A sample, and the page that was written of it."""
    result = getattr(sample_results, request.param)()
    return result, write(result, tmp_path_factory.mktemp(request.param) / "report")


def test_page_is_whole_and_refers_to_nothing_outside(written):
    _, path = written
    text = path.read_text(encoding="utf-8")
    read = Read(text)
    assert read.open == []
    assert "script" not in read.tags
    assert all(address.startswith("#") for address in read.addresses)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert len(set(read.ids)) == len(read.ids)
    assert {address.removeprefix("#") for address in read.addresses} <= set(read.ids)
    assert all(read.images)


def test_headings_step_down_one_at_a_time(written):
    levels = [int(tag[1]) for tag in Read(written[1].read_text(encoding="utf-8")).tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_page_says_what_the_result_says(written):
    result, path = written
    shown = " ".join(" ".join(Read(path.read_text(encoding="utf-8")).texts).split())
    wanted = [
        result.title,
        result.command,
        result.started,
        *result.notes,
        *result.contenders,
        *result.environment.values(),
    ]
    wanted += [name for cell in result.cells for name in (*cell.notes, *cell.not_measured.values())]
    wanted += [m.first_error for cell in result.cells for m in cell.measured.values() if m.first_error]
    wanted += [row.where for parity in result.parity for row in parity.worst]
    wanted += [text for step in result.steps for text in (step.model, step.note)] + [
        process.name for process in result.processes
    ]
    wanted += [result.verdict.replace(" %", "\u00a0%") or page.NO_VERDICT]
    for text in wanted:
        assert " ".join(wording.clean(text).split()) in shown


def test_figures_take_the_colours_of_the_page(written):
    svgs = re.findall(r"<svg.*?</svg>", written[1].read_text(encoding="utf-8"), re.DOTALL)
    assert svgs
    for svg in svgs:
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        assert set(re.findall(r"var\(--([\w-]+)\)", svg)) <= LIGHT.keys()


def test_figures_lie_beside_the_page_as_png(written):
    _, path = written
    found = {file.name for file in path.parent.iterdir()} - {report.PAGE}
    assert found <= set(report.FIGURES)
    assert found == {f"{name}.png" for name in re.findall(r'<figure id="(.*?)"', path.read_text(encoding="utf-8"))}
    for name in found:
        with Image.open(path.parent / name) as image:
            assert min(image.size) > 150
            assert len(image.convert("L").getcolors()) > 20


def test_curves_run_along_what_takes_more_values():
    found = {plot.name: [panel.title for panel in plot.panels] for plot in plots.speed(sample_results.full())}
    assert found["throughput"] == ["1 row per request", "8 rows per request", "64 rows per request"]
    assert found["latency-at-rate"] == ["1 row per request"]
    assert len(found["distribution"]) == plots.MOST_DISTRIBUTIONS
    found = {plot.name: [panel.title for panel in plot.panels] for plot in plots.speed(sample_results.bench())}
    assert found["throughput"] == found["latency"] == ["1 client"]
    assert "latency-at-rate" not in found


def test_same_result_gives_the_same_page(tmp_path):
    one, two = (write(sample_results.noisy(), tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two


def test_result_without_contenders_is_written(tmp_path):
    assert page.NO_VERDICT in write(Result("nothing", [], "", ""), tmp_path / "report").read_text(encoding="utf-8")


def test_earlier_report_is_replaced_with_its_figures(tmp_path):
    path = write(sample_results.full(), tmp_path / "report")
    assert {file.name for file in path.parent.iterdir()} == {report.PAGE, *report.FIGURES}
    assert write(sample_results.empty(), tmp_path / "report") == path
    assert [file.name for file in path.parent.iterdir()] == [report.PAGE]
    assert page.NO_VERDICT in path.read_text(encoding="utf-8")


def test_missing_parents_are_made_and_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert write(sample_results.empty(), tmp_path / "empty").is_file()
    assert write(sample_results.empty(), tmp_path / "a" / "b").is_file()


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "throughput.png"])
def test_folder_with_other_files_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for refuse in (check, lambda directory: write(sample_results.empty(), directory)):
        with pytest.raises(UserError, match="expected an empty folder or an earlier report"):
            refuse(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_file_of_the_readers_own_in_an_earlier_report_is_kept(tmp_path):
    write(sample_results.empty(), tmp_path / "report")
    (tmp_path / "report" / "slides.png").write_text("mine")
    with pytest.raises(UserError, match="got other files"):
        write(sample_results.empty(), tmp_path / "report")


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="expected a folder for the report, got a file"):
        check(tmp_path / "report")


def test_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "report").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="expected a folder for the report, got a link to nothing"):
        check(tmp_path / "report")
    with pytest.raises(UserError, match="expected a folder to write the report to, got: no such file or directory"):
        check(tmp_path / "report" / "below")


@pytest.mark.parametrize("where", ["/proc/report", "/proc/deep/er", "/tmp/" + "n" * 300])
def test_place_that_cannot_be_written_to_is_refused(where):
    with pytest.raises(UserError, match=f"{where}: expected a folder to write the report to, got"):
        check(Path(where))


@pytest.mark.parametrize(
    ("raised", "seen"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError(28, "No space"), UserError)]
)
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_half_written_when_building_stops(tmp_path, monkeypatch, raised, seen, existing):
    target = tmp_path / "report"
    if existing:
        write(sample_results.noisy(), target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def stop(plot, path):
        path.write_bytes(b"half")
        if plot.name == "latency":
            raise raised

    monkeypatch.setattr(page, "png", stop)
    with pytest.raises(seen):
        write(sample_results.full(), target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == ([target] if existing else [])


def _luminance(colour):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in bytes.fromhex(colour[1:]))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_colours_contrast_with_the_paper(scheme):
    for name, colour in scheme.items():
        high, low = sorted((_luminance(colour), _luminance(scheme["paper"])), reverse=True)
        contrast = (high + 0.05) / (low + 0.05)
        if name in ("ink", "muted", "good", "bad", "warn"):
            assert contrast >= 4.5, name
        if name.startswith("series"):
            assert contrast >= 3, name
    assert scheme.keys() == LIGHT.keys()
    assert len(set(scheme.values())) == len(scheme)  # a figure's colours are told apart by their values
    assert math.gcd(len(MARKERS), 6) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (3.6e-6, "3.6e-6"),
        (2e-5, "2e-5"),
        (1.02e-3, "0.00102"),
        (1, "1"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
    ],
)
def test_differences_are_short(value, words):
    assert wording.difference(value) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([8.1, 1020.04, None], ["8.1", "1,020.0", "–"]),
        ([142.3, 95_244.4], ["142", "95,244"]),
        ([0.05, 61.3], ["0.05", "61.30"]),
        ([0.0, math.nan], ["0.00", "–"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_have_the_same_digits(values, words):
    assert [wording.fixed(value, wording.digits(values)) for value in values] == words


def test_loads_and_ratios_in_words():
    assert str(Load(1, 16)) == "16 clients, 1 row"
    assert str(Load(512, 1)) == "1 client, 512 rows"
    assert str(Load(8, rate=2.5)) == "2.5 requests/s, 8 rows"
    assert wording.factor(Ratio(1.993, 1.87, 2.06)) == ("1.99", "[1.87, 2.06]")
    assert wording.factor(Ratio(0.0321, 0.027, 0.038)) == ("0.032", "[0.027, 0.038]")
    assert wording.factor(Ratio(math.nan, math.nan, math.nan)) == ("–", "")
    assert wording.number(0.012345) == "0.0123"
    assert wording.number(95_244.4) == "95,244"


@pytest.mark.parametrize("low", [0.003, 0.03, 0.3, 0.86, 0.95])
@pytest.mark.parametrize("high", [1.05, 1.3, 2.4, 9, 41, 900])
def test_ticks_of_ratios_are_few_and_hold_one(low, high):
    ticks = plots._ticks(low, high)
    assert 1 in ticks
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
