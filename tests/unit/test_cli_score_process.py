"""`dualpath score` as a process: stdin, pipes, a terminal, and the real models without a server."""

import contextlib
import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from dualpath.readability.contract import TOLERANCES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest

# A fake scores 10 * weight + bytes / 1000.
FAKED = (
    "import numpy as np; from dualpath import cli; from dualpath.cli import score;"
    "score._local = lambda _: lambda e, w: np.float32([10 * b + len(a) / 1000 for a, b in zip(e, w)]); cli.main()"
)

REAL = "from dualpath.cli import main; main()"


def faked(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", FAKED, "score", "--local", *arguments], capture_output=True, timeout=60, **options
    )


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_stdin_is_text_a_line_by_default():
    done = faked("--file", "-", input=b"ab\n\ncaf\xe9\nabc")
    assert (done.returncode, done.stdout.decode()) == (1, "7.0020\tab\n\tcaf\N{REPLACEMENT CHARACTER}\n7.0030\tabc\n")
    assert done.stderr.decode().startswith("dualpath: stdin:3: excerpt: expected UTF-8 text")


def test_stdin_is_read_without_being_asked_for():
    assert faked(input=b"ab\nabc\n").stdout == b"7.0020\tab\n7.0030\tabc\n"
    done = faked(input=b"\xef\xbb\xbfid,Excerpt,Bert_Weight\r\n7,ab,0\r\n")
    assert (done.returncode, done.stdout) == (0, b"id,Excerpt,Bert_Weight,score\n7,ab,0,0.002000\n")
    done = faked(input=b'{"excerpt": "ab", "id": 7, "bert_weight": 0}\n{"excerpt": 5}\n')
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [
        {"excerpt": "ab", "id": 7, "bert_weight": 0, "score": pytest.approx(0.002)},
        {"excerpt": 5, "score": None},
    ]
    assert done.stderr.decode() == "dualpath: stdin:2: excerpt: expected a text, got 5. Quote it.\n"
    done = faked(input=b"id,text\n1,ab\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stdin: expected a column 'excerpt', got 'id', 'text'." in done.stderr


def test_stdin_can_be_csv():
    done = faked("--file", "-", "--format", "csv", input=b"excerpt,bert_weight\nab,0\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"excerpt,bert_weight,score\nab,0,0.002000\n", b"")


def test_a_reader_that_leaves_early_sees_no_traceback(write):
    path = write("in.txt", "some words\n" * 5000)
    with subprocess.Popen(
        [sys.executable, "-c", FAKED, "score", "--local", "--file", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"7.0100\tsome words\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_the_progress_bar_leaves_redirected_scores_alone(write, tmp_path):
    path = write("in.csv", "excerpt,bert_weight\nab,0\n")
    scored = tmp_path / "scored.csv"
    terminal, stderr = pty.openpty()
    with scored.open("wb") as stdout:
        command = [sys.executable, "-c", FAKED, "score", "--local", "--file", path]
        code = subprocess.call(command, stdout=stdout, stderr=stderr, env={**os.environ, "TERM": "xterm"}, timeout=60)
    os.close(stderr)
    assert code == 0
    assert scored.read_text() == "excerpt,bert_weight,score\nab,0,0.002000\n"
    assert "in.csv" in drained(terminal)


def drained(terminal):
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that nobody holds the other end
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    return shown.decode()


def test_local_scores_are_the_references(model_repository, reference, write):
    texts = ["The cat sat on the mat.", "Notwithstanding the foregoing, the lessee shall indemnify the lessor."]
    path = write("in.csv", "excerpt,bert_weight\n" + "".join(f'"{text}",{w}\n' for text in texts for w in (0, 0.5, 1)))
    # A process of its own: it takes all cores, and torch's threads are one setting for a whole process.
    arguments = ["score", "--local", "--model-repository", model_repository, "--json", "--file", path]
    done = subprocess.run([sys.executable, "-c", REAL, *arguments], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    weights = np.tile(np.float32([0, 0.5, 1]), 2)
    expected = reference.score([text.encode() for text in texts for _ in range(3)], weights)
    built = Facts.of(newest(model_repository / "bert-large"))
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCES[built.precision])


def test_local_without_artifacts_names_the_next_step(tmp_path):
    (tmp_path / "bert-large" / "1").mkdir(parents=True)
    (tmp_path / "bert-large" / "config.pbtxt").write_text('backend: "pytorch"')
    arguments = ["score", "--local", "--model-repository", tmp_path, "hi"]
    done = subprocess.run([sys.executable, "-c", REAL, *arguments], capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"dualpath: bert-large: expected {tmp_path}/bert-large/1/model.pt, got none. Run `dualpath build`.\n"
    )
