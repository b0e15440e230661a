"""`dualpath score`: what it reads, what it prints, and how it ends. A fake does the scoring."""

import csv
import io
import json
import sys

import numpy as np
import pytest

from dualpath import cli
from dualpath.cli import score as command
from dualpath.serving.preflight import check_ports


def fake_score(excerpts, weights):
    """Score 10 * weight + bytes / 1000, so that a row or a weight out of place shows; "nan" gives NaN."""
    return np.float32(
        [np.nan if e == b"nan" else 10 * w + len(e) / 1000 for e, w in zip(excerpts, weights, strict=True)]
    )


@pytest.fixture
def batches(monkeypatch):
    """Score `--local` with the fake; the list gets the size of every batch."""
    sizes = []

    def scorer(_):
        def score_rows(excerpts, weights):
            sizes.append(len(excerpts))
            return fake_score(excerpts, weights)

        return score_rows

    monkeypatch.setattr(command, "_local", scorer)
    return sizes


@pytest.fixture
def dualpath(monkeypatch, capfd, batches):
    """dualpath(*arguments) -> exit code, stdout, stderr; nothing is on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))

    def dualpath(*arguments):
        monkeypatch.setattr(sys, "argv", ["dualpath", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return dualpath


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_texts_give_score_and_excerpt_a_line(dualpath):
    assert dualpath("score", "--local", "One two.", "Three\n\tfour") == (
        0,
        "7.0080\tOne two.\n7.0110\tThree four\n",
        "",
    )


def test_bert_weight_is_passed_on(dualpath):
    assert dualpath("score", "--local", "--bert-weight", "0.25", "a")[1] == "2.5010\ta\n"


def test_a_long_text_is_shown_in_part(dualpath):
    _, out, _ = dualpath("score", "--local", "word " * 40)
    assert out == f"7.2000\t{' '.join(['word'] * 20)}…\n"


def test_csv_keeps_its_columns_and_their_order(dualpath, write):
    path = write("in.csv", 'id,excerpt,note\n7,"a, b","say ""hi"""\n8,Ünï,\n')
    assert dualpath("score", "--local", "--file", path) == (
        0,
        'id,excerpt,note,score\n7,"a, b","say ""hi""",7.004000\n8,Ünï,,7.005000\n',
        "",
    )


def test_csv_with_a_score_column_gets_the_new_score(dualpath, write):
    path = write("in.csv", "score,excerpt\nold,ab\n")
    assert dualpath("score", "--local", "--file", path)[1] == "score,excerpt\n7.002000,ab\n"


def test_weights_of_a_csv_come_first_and_blank_ones_fall_back(dualpath, write):
    path = write("in.csv", "excerpt,bert_weight\nab,0\nab,1\nab,\nab,  \nab, 0.5 \n")
    code, out, _ = dualpath("score", "--local", "--bert-weight", "0.2", "--file", path)
    assert code == 0
    assert [row["score"] for row in rows(out)] == ["0.002000", "10.002000", "2.002000", "2.002000", "5.002000"]


def test_bad_rows_are_named_by_line_and_the_others_scored(dualpath, write):
    content = b'excerpt,bert_weight\n"two\nlines",0\nab,nan\nab,half\n\nab,1.5\ncaf\xe9,0\n...,0\n"",0\nlast,0\n'
    path = write("in.csv", content)
    code, out, err = dualpath("score", "--local", "--file", path)
    assert code == 1
    assert err.splitlines() == [
        f"dualpath: {path}:4: bert_weight: expected a number from 0 to 1, got nan. Correct it.",
        f"dualpath: {path}:5: bert_weight: expected a number from 0 to 1, got 'half'. Correct it.",
        f"dualpath: {path}:7: bert_weight: expected a number from 0 to 1, got 1.5. Correct it.",
        f"dualpath: {path}:8: excerpt: expected UTF-8 text, got byte 0xe9 at offset 3. Encode the text as UTF-8.",
        f"dualpath: {path}:9: excerpt: expected text with at least one word, got '...'. Leave the row out.",
        f"dualpath: {path}:10: excerpt: expected text with at least one word, got an empty text. Leave the row out.",
    ]
    assert [row["score"] for row in rows(out)] == ["0.009000", *[""] * 6, "0.004000"]
    assert rows(out)[0]["excerpt"] == "two\nlines"
    assert rows(out)[4]["excerpt"] == "caf\N{REPLACEMENT CHARACTER}"


def test_rows_of_a_wrong_form_are_named_and_the_others_scored(dualpath, write):
    path = write("in.csv", 'excerpt,n\nab,1\na,b,2\nab\n"ab" c,3\nab,4\n"never closed,5\nab,6\n')
    code, out, err = dualpath("score", "--local", "--file", path)
    assert code == 1
    assert err.splitlines() == [
        f"dualpath: {path}:3: expected 2 columns, got 3. Quote a text that holds commas.",
        f"dualpath: {path}:4: expected 2 columns, got 1. Add those that are missing.",
        f"dualpath: {path}:5: expected a row of a CSV, got: ',' expected after '\"'. Close its quotes.",
        f"dualpath: {path}:7: expected a row of a CSV, got: unexpected end of data. Close its quotes.",
    ]
    assert [row["score"] for row in rows(out)] == ["7.002000", "", "", "", "7.002000", ""]


def test_bad_rows_have_null_scores_in_json(dualpath, write):
    path = write("in.csv", b"excerpt,note\nok,\xe9\nnan,x\n?,y\n")
    code, out, err = dualpath("score", "--local", "--json", "--file", path)
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {"excerpt": "ok", "note": "\N{REPLACEMENT CHARACTER}", "score": pytest.approx(7.002)},
        {"excerpt": "nan", "note": "x", "score": None},
        {"excerpt": "?", "note": "y", "score": None},
    ]
    assert f"{path}:3: expected a finite score, got nan" in err


def test_json_of_texts_holds_the_whole_excerpt(dualpath):
    text = "wörd\n" * 100
    [line] = dualpath("score", "--local", "--json", text)[1].splitlines()
    assert json.loads(line) == {"excerpt": text, "score": pytest.approx(7.6)}


def test_duplicate_rows_are_scored_each(dualpath, write):
    path = write("in.txt", "same\n" * 3 + "other one\n" + "same\n")
    assert [line.split("\t")[0] for line in dualpath("score", "--local", "--file", path)[1].splitlines()] == [
        *["7.0040"] * 3,
        "7.0090",
        "7.0040",
    ]


def test_text_files_skip_blank_lines_and_count_them(dualpath, write):
    path = write("in.txt", b"\xef\xbb\xbfab\r\n\r\n   \nabc\n!\n\tlast")
    assert dualpath("score", "--local", "--file", path) == (
        1,
        "7.0020\tab\n7.0030\tabc\n\t!\n7.0050\tlast\n",
        f"dualpath: {path}:5: excerpt: expected text with at least one word, got '!'. Leave the row out.\n",
    )


@pytest.mark.parametrize("header", ["excerpt,n", '"excerpt",n', "n,excerpt"])
def test_csv_may_begin_with_a_byte_order_mark(dualpath, write, header):
    code, out, _ = dualpath("score", "--local", "--file", write("in.csv", f"\ufeff{header}\r\nab,cd\r\n"))
    assert (code, rows(out)[0]["score"]) == (0, "7.002000")


def test_format_overrides_the_ending(dualpath, write):
    path = write("table.txt", "excerpt\nab\n")
    assert dualpath("score", "--local", "--format", "csv", "--file", path)[1] == "excerpt,score\nab,7.002000\n"


def test_a_very_long_excerpt_is_read_whole(dualpath, write):
    path = write("in.csv", f"excerpt,n\n{'word ' * 100_000},1\n")
    code, out, _ = dualpath("score", "--local", "--json", "--file", path)
    assert (code, json.loads(out)["score"]) == (0, pytest.approx(507, rel=1e-5))


def test_rows_beyond_a_batch_come_back_in_order(dualpath, write, batches):
    texts = ["x" * n if n % 7 else "?" for n in range(1, 101)]
    code, out, err = dualpath("score", "--local", "--bert-weight", "0", "--file", write("in.txt", "\n".join(texts)))
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        "" if text == "?" else f"{len(text) / 1000:.4f}" for text in texts
    ]
    assert len(err.splitlines()) == texts.count("?")
    assert (sum(batches), max(batches)) == (100 - texts.count("?"), 28)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "stdin: expected at least one excerpt, got none. Add one."),
        (["hi", "--file", "in.csv"], "TEXT: expected either arguments or --file, got both. Leave one out."),
        (["hi", "--bert-weight", "2"], "--bert-weight: expected a number from 0 to 1, got 2. Correct it."),
        (["hi", "--bert-weight", "nan"], "--bert-weight: expected a number from 0 to 1, got nan. Correct it."),
        (["--file", "none.csv"], "--file: expected a file, got 'none.csv': No such file or directory. Name another."),
        (["--file", "."], "--file: expected a file, got '.': Is a directory. Name another."),
    ],
)
def test_wrong_use_is_one_sentence(dualpath, arguments, sentence):
    assert dualpath("score", "--local", *arguments) == (2, "", f"dualpath: {sentence}\n")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("in.csv", "", "expected a CSV with a header and rows, got an empty file. Add them."),
        (
            "in.csv",
            "id,text\n1,a\n",
            "expected a column 'excerpt', got 'id', 'text'. Rename one, or give --format txt.",
        ),
        (
            "in.csv",
            "id;excerpt\n1;a\n",
            "expected a column 'excerpt', got 'id;excerpt'. Rename one, or give --format txt.",
        ),
        ("in.csv", "n,excerpt,n\n1,a,2\n", "1: expected columns of different names, got 'n' twice. Rename one."),
        ("in.csv", "id,excerpt\n", "expected at least one excerpt, got none. Add one."),
        ("in.txt", " \n\n", "expected at least one excerpt, got none. Add one."),
    ],
)
def test_a_file_with_nothing_to_score_is_refused(dualpath, write, name, content, sentence):
    path = write(name, content)
    assert dualpath("score", "--local", "--file", path) == (
        2,
        "",
        f"dualpath: {path}:{'' if sentence.startswith('1:') else ' '}{sentence}\n",
    )


def test_a_csv_with_a_broken_header_is_refused(dualpath, write):
    path = write("in.csv", '"excerpt,n\na,1\n')
    code, out, err = dualpath("score", "--local", "--file", path)
    assert (code, out) == (2, "")
    assert "expected the header of a CSV, got: unexpected end of data." in err


@pytest.mark.parametrize("arguments", [["--model", "bert"], ["--bert-weight", "much"], ["--format", "xls"]])
def test_wrong_options_end_with_2(dualpath, arguments):
    code, out, err = dualpath("score", "hi", *arguments)
    assert (code, out) == (2, "")
    assert arguments[0] in err


def test_no_server_is_one_sentence(dualpath):
    port = check_ports("127.0.0.1", {"--grpc-port": 0})["--grpc-port"]
    code, out, err = dualpath("score", "--url", f"localhost:{port}", "hi")
    assert (code, out) == (2, "")
    assert err == (
        f"dualpath: --url: expected a Triton server at localhost:{port} (gRPC), got: Connection refused. "
        "Start one with `dualpath serve`.\n"
    )


@pytest.mark.parametrize("url", ["http://localhost:8000", ""])
def test_an_address_that_is_none_is_named(dualpath, url):
    code, _, err = dualpath("score", "--url", url, "hi")
    assert code == 2
    form = f"--url: expected HOST:PORT of a Triton server's gRPC, got {url!r}. Write it like localhost:8001."
    assert err == f"dualpath: {form}\n"
