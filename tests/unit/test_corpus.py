"""Rated excerpts from files: both layouts, what belongs together, and every row that is wrong by its line."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rated import write_csv

from dualpath.errors import UserError
from dualpath.training.corpus import Corpus, read_corpus

CLEAR_HEADER = ["ID", "Author", "Title", "URL", "MPAA\nMax", "Excerpt", "BT Easiness", "BT s.e."]


def file(folder: Path, *lines: str) -> Path:
    path = folder / "rated.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def spreadsheet(path: Path, *rows: list[object]) -> Path:
    import openpyxl

    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)
    return path


def message(path: Path, n_folds: int = 2) -> str:
    with pytest.raises(UserError) as error:
        read_corpus(path, n_folds)
    return str(error.value)


# Layouts


def test_prize_layout_is_read_and_rows_of_one_url_are_a_group(tmp_path: Path) -> None:
    header = "id,url_legal,license,excerpt,target,standard_error"
    path = file(
        tmp_path, header, "1,http://a#1,,One.,1,0", "2,http://a#2,,Two.,2.5,0", "3,,,Three.,0,0", "4,,,Four.,-1,0"
    )
    corpus = read_corpus(path, 3)
    assert corpus.excerpts == [b"One.", b"Two.", b"Three.", b"Four."]
    assert corpus.targets.tolist() == [1, 2.5, 0, -1]
    assert corpus.targets.dtype == np.float32
    assert corpus.groups.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("target", ["BT Easiness", "BT_easiness"])
def test_clear_layout_is_read_from_csv(tmp_path: Path, target: str) -> None:
    path = write_csv(
        tmp_path / "clear.csv",
        [
            {"ID": 1, "Author": "Ann", "URL": "http://a", "MPAA\nMax": "G", "Excerpt": "One.", target: -0.5},
            {"ID": 2, "Author": "Bob", "URL": "http://b", "MPAA\nMax": "G", "Excerpt": "Two\nlines.", target: 1},
        ],
    )
    corpus = read_corpus(path, 2)
    assert corpus.excerpts == [b"One.", b"Two\nlines."]
    assert corpus.targets.tolist() == [-0.5, 1]


def test_clear_spreadsheet_equals_its_csv(tmp_path: Path) -> None:
    rows = [
        [1, "Ann", "T", "http://a", "G", "One\nline, “quoted”.", -0.25, 0.4],
        [2, "Bob", None, None, "G", "Two.", 1, 0.5],
    ]
    sheet = read_corpus(spreadsheet(tmp_path / "clear.xlsx", CLEAR_HEADER, *rows), 2)
    text = read_corpus(write_csv(tmp_path / "c.csv", [dict(zip(CLEAR_HEADER, row, strict=True)) for row in rows]), 2)
    assert sheet.excerpts == text.excerpts
    assert sheet.digest == text.digest


def test_escaped_characters_of_a_spreadsheet_are_read_as_characters(tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "c.xlsx", ["Excerpt", "BT Easiness"], ["One_x000D_\nline.", 1], ["Two.", 2])
    assert read_corpus(path, 2).excerpts[0] == b"One\r\nline."


def test_spreadsheet_without_openpyxl_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spreadsheet(tmp_path / "c.xlsx", ["Excerpt", "BT Easiness"], ["One.", 1])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install 'dualpath[train]'" in message(path)


def test_file_that_only_begins_like_a_spreadsheet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.xlsx").write_bytes(b"PK\x03\x04 and nothing more")
    assert "expected an .xlsx spreadsheet, got one that openpyxl cannot read" in message(tmp_path / "c.xlsx")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("text,target", "expected a column 'excerpt' or 'Excerpt', got 'text', 'target'"),
        ("id,Author", "'Excerpt' and a column 'target' or 'BT Easiness' or 'BT_easiness', got 'id', 'Author'"),
        ("excerpt,target,BT Easiness", "expected one column with the target, got target and BT Easiness"),
        ("", "expected a CSV with a header and rows, got an empty file"),
    ],
)
def test_header_without_the_columns_is_refused(tmp_path: Path, header: str, found: str) -> None:
    assert found in message(file(tmp_path, header))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "expected a file to read, got: No such file" in message(tmp_path / "none.csv")


def test_other_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"excerpt,target\nOne.,1\ncaf\xe9,2\n")
    assert "line 3: expected UTF-8 text, got byte 0xe9" in message(tmp_path / "latin.csv")


# Groups


def test_rows_linked_by_author_or_url_are_one_group_however_long_the_chain(tmp_path: Path) -> None:
    sources = [("Ann", "u1"), ("Bob", "u2"), ("Cy", "u3"), ("ann ", "u3"), ("Bob", "u1"), ("Dee", "")]
    rows = [{"Author": a, "URL": u, "Excerpt": f"Text {a}{i}.", "BT Easiness": i} for i, (a, u) in enumerate(sources)]
    assert read_corpus(write_csv(tmp_path / "c.csv", rows), 2).groups.tolist() == [0, 0, 0, 0, 0, 1]


def test_unknown_authors_do_not_link_rows(tmp_path: Path) -> None:
    rows = [
        {"Author": author, "Excerpt": f"Text {i}.", "BT Easiness": i}
        for i, author in enumerate(("", "?", "Unknown", "unknown", "Anonymous", "N/A"))
    ]
    assert read_corpus(write_csv(tmp_path / "c.csv", rows), 2).groups.tolist() == [0, 1, 2, 3, 4, 5]


def test_second_rating_of_a_text_with_other_spaces_joins_its_group(tmp_path: Path) -> None:
    path = file(tmp_path, "excerpt,target", "One two.,1", "Three.,2", '"One  two. ",1.5')
    assert read_corpus(path, 2).groups.tolist() == [0, 1, 0]


# Rows that are wrong


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["One.,1", "Two.,easy"], "line 3: expected a number as target, got 'easy'"),
        (['"One\nline.",1', "Two.,nan"], "line 4: expected a number as target, got 'nan'"),
        (["One.,1", "Two.,-inf"], "line 3: expected a number as target, got '-inf'"),
        (["One.,1", "Two.,1e39"], "line 3: expected a number as target, got '1e39'"),
        (["One.,1", "Two.,1_0"], "line 3: expected a number as target, got '1_0'"),
        (["One.", "Two.,1", "Three.,2"], "line 2: expected 2 columns, got 1."),
        (["One.,1", " ,2", "Two.,2"], "line 3: expected an excerpt with at least one word, got ' '"),
        (["One.,1", "...,2", "Two.,2"], "line 3: expected an excerpt with at least one word, got '...'"),
        (['"One\n\nx.",1', "Two.,2", '"One\n\nx.",3'], "line 6: expected a text of its own, got a duplicate of line"),
        (["One two.,1", "Two.,2", "One  two. ,1"], "line 4: expected a text of its own, got a duplicate of line 2"),
        (["One.,1", "Two, three.,2", "Four.,4"], "line 3: expected 2 columns, got 3"),
        (["One.,1", "Two.,2", '"open,3'], "line 4: expected a row of a CSV, got: unexpected end of data"),
        (["One.,1"], "expected excerpts of at least 2 sources, one for each fold, got 1 row of 1."),
    ],
)
def test_row_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, lines: list[str], found: str) -> None:
    assert found in message(file(tmp_path, "excerpt,target", *lines))


def test_bad_row_of_a_spreadsheet_is_named_by_its_number_there(tmp_path: Path) -> None:
    path = spreadsheet(
        tmp_path / "c.xlsx", ["Excerpt", "BT Easiness"], ["One.", 1], [None, None], ["Two.", "easy"], ["3", 3]
    )
    assert "row 4: expected a number as target, got 'easy'" in message(path)


def test_duplicate_of_a_row_that_is_wrong_itself_is_named_too(tmp_path: Path) -> None:
    said = message(file(tmp_path, "excerpt,target", "One.,x", "Two.,2", "One.,1"))
    assert "line 2: expected a number as target" in said
    assert "line 4: expected a text of its own, got a duplicate of line 2" in said


def test_all_bad_rows_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    said = message(file(tmp_path, "excerpt,target", "One.,1", *["Again.,x"] * 13, "Two.,2"))
    assert "got 13 faults" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        *(f"line {n}" for n in range(3, 13)),
        "and 3 more.",
    ]


def test_row_with_two_faults_is_named_once(tmp_path: Path) -> None:
    said = message(file(tmp_path, "excerpt,target", "One.,1", "!,x", "Two.,2"))
    assert "line 3: expected an excerpt with at least one word, got '!'; expected a number as target, got 'x'." in said


texts = st.text(
    st.one_of(st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from('",\n\r ab.')), max_size=20
)


@given(st.lists(st.tuples(texts, st.floats(-100, 100, width=32), texts, texts), min_size=2, max_size=8))
def test_what_was_written_is_read_or_refused_by_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "any.csv"
    # A word of its own makes every row usable.
    named = [
        {"Excerpt": f"w{i} {text}", "BT Easiness": target, "Author": author, "URL": url}
        for i, (text, target, author, url) in enumerate(rows)
    ]
    corpus = read_corpus(write_csv(path, named), 1)
    assert corpus.excerpts == [str(row["Excerpt"]).encode() for row in named]
    assert corpus.targets.tolist() == [np.float32(target) for _, target, _, _ in rows]
    assert corpus.groups[0] == 0
    assert all(b <= max(corpus.groups[:i]) + 1 for i, b in enumerate(corpus.groups[1:], start=1))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("corpus") / "any.csv"
    path.write_bytes(b"excerpt,target\n" + data)
    with suppress(UserError):
        assert len(read_corpus(path, 1).excerpts) > 0


# Digest


def test_digest_changes_with_text_target_and_group() -> None:
    def corpus(text: bytes = b"One.", target: float = 1, group: int = 1) -> Corpus:
        return Corpus([text, b"Two."], np.array([target, 2], np.float32), np.array([0, group], np.int64))

    digests = {corpus().digest, corpus(text=b"One").digest, corpus(target=1.5).digest, corpus(group=0).digest}
    assert len(digests) == 4
    assert corpus().digest == corpus().digest
