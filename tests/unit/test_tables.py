"""Rows of any file: what is read, from where, and what is refused in which words."""

import io
import os
import threading
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dualpath.errors import UserError
from dualpath.tables import Format, as_text, bad_byte, open_tables, read_tables


def table(content, name="stdin", **options):
    content = content if isinstance(content, bytes) else content.encode()
    [found] = read_tables(io.BufferedReader(io.BytesIO(content)), name, **options)
    return found


def cells(content, name="stdin", **options):
    return [(row.line, dict(row.cells)) for row in table(content, name, **options).records]


def refused(content, name="in.csv"):
    with pytest.raises(UserError) as caught:
        list(table(content, name).records)
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "format"),
    [
        ("excerpt", Format.csv),
        ("Excerpt,id", Format.csv),
        ('id,"excerpt"', Format.csv),
        ("\ufeffid,text", Format.csv),
        ('{"excerpt": "one"}', Format.jsonl),
        ("Once upon a time, there was a cat.", Format.txt),
        ("one, two", Format.csv),
        ("id;excerpt", Format.csv),
        ("id\tExcerpt", Format.csv),
        ("An excerpt; it is short.", Format.txt),
        ("The cat, the dog", Format.txt),
        ("word", Format.txt),
        ("{curly} is a text", Format.txt),
    ],
)
def test_the_first_line_of_a_pipe_tells_its_format(first, format):
    assert table(f"{first}\n").format is format


def test_the_ending_tells_before_the_first_line_and_a_given_format_before_both():
    assert table("excerpt\n", "in.txt").format is Format.txt
    assert table("a text\n", "in.csv").format is Format.csv
    assert table("a text\n", "in.tsv").format is Format.csv
    assert table("a text\n", "in.NDJSON").format is Format.jsonl
    assert table("a text\n", "in.txt", format=Format.csv).format is Format.csv
    assert table("excerpt\n", "in.dat", otherwise=Format.txt).format is Format.txt


def test_lines_are_counted_past_a_byte_order_mark_carriage_returns_and_quoted_lines():
    assert cells('\ufeffa,b\r\n\r\n1,"x\r\ny"\r\n"2 ""q""",ü\r\n', "in.csv") == [
        (3, {"a": "1", "b": "x\r\ny"}),
        (5, {"a": '2 "q"', "b": "ü"}),
    ]
    assert cells("\ufeffone\r\n \r\ntwo", "in.txt") == [(1, {"text": "one"}), (3, {"text": "two"})]
    assert cells('\ufeff{"a": 1}\r\n\n{"b": [2]}\n', "in.jsonl") == [(1, {"a": 1}), (3, {"b": [2]})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n".encode("utf-16"), "in.csv: expected text in UTF-8, got UTF-16 or UTF-32. Save it as text in UTF-8."),
        ("a,b\n1,2\n".encode("utf-16-le"), "in.csv: expected text in UTF-8, got bytes that are no text."),
        (b"\x1f\x8b\x08", "in.csv: expected text in UTF-8, got a gzip file."),
        (b"%PDF-1.7\n", "in.csv: expected text in UTF-8, got a PDF."),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01", "in.csv: expected text in UTF-8, got bytes that are"),
        (b"PK\x03\x04", "in.csv: expected an .xlsx spreadsheet, got one that openpyxl cannot read: "),
        ("", "in.csv: expected a CSV with a header and rows, got an empty file. Add them."),
        ('"a\n', "in.csv:1: expected the header of a CSV, got: unexpected end of data. Close its quotes."),
        ("a,b,a\n", "in.csv:1: expected columns of different names, got 'a' twice. Rename one."),
    ],
)
def test_what_is_no_table_is_refused_by_name(content, message):
    assert refused(content).startswith(message)


@pytest.mark.parametrize(
    ("name", "content", "line", "fault"),
    [
        ("in.csv", "a,b\n1,2\n1,2,3\n", 3, "expected 2 columns, got 3. Quote a text that holds commas."),
        ("in.csv", "a,b\n1\n", 2, "expected 2 columns, got 1. Add those that are missing."),
        ("in.csv", "a\n1\na long text\0y\n", 3, "expected text, got a NUL byte. Remove it."),
        ("in.txt", "1\na long text\0y\n", 2, "expected text, got a NUL byte. Remove it."),
        ("in.jsonl", '{"a": 1}\n{"a": \n', 2, "expected a JSON object, got: Expecting value at column 6. Correct"),
        ("in.jsonl", "[1]\n", 1, 'expected a JSON object such as {"excerpt": "…"}, got [1]. Correct the line.'),
        (
            "in.jsonl",
            '{"a": ["\\uD83D\\uDE00 \\uD83D"]}\n',
            1,
            r"expected text, got \ud83d, half of a character. Correct the line.",
        ),
        ("in.jsonl", "[" * 100_000 + "]" * 100_000, 1, "expected a JSON object, got a number of thousands"),
    ],
)
def test_a_row_of_a_wrong_form_is_named_by_its_line(name, content, line, fault):
    *_, row = table(content, name).records
    assert (row.line, row.where) == (line, f"{name}:{line}")
    assert row.fault.startswith(fault)


def test_bytes_that_are_not_utf_8_are_kept_and_named():
    [row] = table(b"a,b\ncaf\xe9,ok\n", "in.csv").records
    assert bad_byte(row.text("a")) == "0xe9"
    assert bad_byte(row.text("b")) is None
    assert row.text("a").encode(errors="surrogateescape") == b"caf\xe9"


def test_a_pipe_is_read_as_it_comes():
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as pipe:
        pipe.write(b"excerpt\n")
        [found] = read_tables(file, "stdin")
        for text in (b"one", b"two"):  # each is there before the next is written
            threading.Timer(0.01, pipe.write, [text + b"\n"]).start()
            assert next(found.records).text("excerpt") == text.decode()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UserError, match=r"expected a file to read, got: (Is a directory|No such file)"):
            open_tables(path).__enter__()


def test_parquet_keeps_types_and_a_damaged_file_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "in.parquet"
    rows = [{"excerpt": "one", "weight": 0.5, "ids": [1, 2]}, {"excerpt": None, "weight": None, "ids": []}]
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    with open_tables(path) as [found]:
        assert (found.columns, found.unit) == (("excerpt", "weight", "ids"), "row")
        assert [dict(row.cells) for row in found.records] == rows
    assert refused(path.read_bytes()[:-20], "in").startswith("in: expected a Parquet file, got: ")


def test_every_value_has_a_text():
    values = (None, "a", b"\xff", 1, 0.5, True, [1, "ü"], {"a": None})
    assert [*map(as_text, values)] == ["", "a", "\udcff", "1", "0.5", "true", '[1, "ü"]', '{"a": null}']


@given(st.binary(max_size=200), st.sampled_from(["stdin", "in.csv", "in.jsonl", "in.txt"]))
@example(b"\0\r\0", "stdin")
def test_any_bytes_are_read_or_refused_in_words(content, name):
    with suppress(UserError):
        assert all(row.where.startswith(f"{name}:") for row in table(content, name).records)
