"""Bulk scoring that survives: it goes on where a file ends, and tries again while a server is away."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_score import batches, dualpath, write  # noqa: F401  fixtures
from tritonclient.utils import InferenceServerException

from dualpath.cli.score_files import written_to
from dualpath.serving.client import retrying

CSV = 'id,excerpt\n1,one\n2,"two\nlines, ""quoted"""\n3,three\n4,\n5,five\n'


@pytest.mark.parametrize("cut", [0, 5, 17, 18, 30, 40, 52, 60, 70])
def test_a_resumed_csv_is_what_an_uninterrupted_run_writes(dualpath, batches, write, tmp_path, cut):  # noqa: F811
    source, whole, partly = write("in.csv", CSV), tmp_path / "whole.csv", tmp_path / "partly.csv"
    assert dualpath("score", "--local", "--file", source, "--output", whole)[0] == 1  # row 4 has no excerpt
    text = whole.read_bytes()
    rows = list(csv.reader(text.decode().splitlines(keepends=True)))
    assert [row[0] for row in rows] == ["id", "1", "2", "3", "4", "5"]
    partly.write_bytes(text[: min(cut, len(text))])
    batches.clear()
    dualpath("score", "--local", "--file", source, "--output", partly, "--resume")
    assert partly.read_bytes() == text
    assert sum(batches) <= 4


def test_rows_that_are_there_are_not_scored_again(dualpath, batches, write, tmp_path):  # noqa: F811
    source, output = write("in.txt", "one\ntwo\nthree\n"), tmp_path / "out.txt"
    output.write_text("7.0030\tone\n7.00")
    assert dualpath("score", "--local", "--file", source, "--output", output, "--resume") == (0, "", "")
    assert output.read_text() == "7.0030\tone\n7.0030\ttwo\n7.0050\tthree\n"
    assert batches == [2]


def test_a_whole_output_is_left_as_it_is(dualpath, batches, write, tmp_path):  # noqa: F811
    source, output = write("in.txt", "one\n"), tmp_path / "out.txt"
    dualpath("score", "--local", "--file", source, "--output", output)
    before = output.read_text()
    assert dualpath("score", "--local", "--file", source, "--output", output, "--resume")[0] == 0
    assert output.read_text() == before
    assert batches == [1]


def test_an_output_is_not_overwritten_nor_continued_with_other_columns(dualpath, write, tmp_path):  # noqa: F811
    source, output = write("in.csv", CSV), tmp_path / "out.csv"
    output.write_text("name,score\nx,1\n")
    code, _, complaint = dualpath("score", "--local", "--file", source, "--output", output)
    assert (code, "expected a new file, got one that exists" in complaint) == (2, True)
    code, _, complaint = dualpath("score", "--local", "--file", source, "--output", output, "--resume")
    assert (code, "expected the columns id, excerpt, score, got name, score" in complaint) == (2, True)
    assert output.read_text() == "name,score\nx,1\n"


class Clock:
    """A clock that passes while one sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


def failing(*statuses):
    """A call that fails so, and then gives 1."""
    left = [InferenceServerException("away", status) for status in statuses]

    def call():
        if left:
            raise left.pop(0)
        return 1

    return call


def test_what_a_server_cannot_take_is_tried_again_after_longer_delays():
    clock, said = Clock(), []
    call = failing(*["StatusCode.UNAVAILABLE"] * 3, "StatusCode.NOT_FOUND")
    assert retrying(call, 60, said.append, lambda: clock.now, clock.sleep) == 1
    assert clock.slept == [0.5, 1, 2, 4]
    assert said == ["away. Trying again for 60 s."]


@pytest.mark.parametrize(("status", "for_s"), [("StatusCode.INVALID_ARGUMENT", 60), ("StatusCode.UNAVAILABLE", 0)])
def test_a_bad_request_is_not_tried_again_nor_is_any_without_time(status, for_s):
    clock = Clock()
    with pytest.raises(InferenceServerException, match="away"):
        retrying(failing(status), for_s, print, lambda: clock.now, clock.sleep)
    assert clock.slept == []


def test_trying_ends_in_time():
    clock = Clock()
    with pytest.raises(InferenceServerException, match="away"):
        retrying(failing(*["StatusCode.UNAVAILABLE"] * 99), 20, lambda _: None, lambda: clock.now, clock.sleep)
    assert clock.now <= 20


@pytest.mark.parametrize(
    ("streams", "sentence"),
    [
        (">/dev/full", "dualpath: standard output: expected room to write, got: No space left on device. Make room.\n"),
        (">&-", "dualpath: standard output: expected an open stream, got a closed one. Redirect it to a file.\n"),
    ],
)
def test_streams_that_take_nothing_are_named(streams, sentence):
    command = f"{Path(sys.executable).parent / 'dualpath'} --help {streams}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (ended.returncode in (1, 2), ended.stderr) == (True, sentence)


def test_an_output_without_room_is_named():
    with (
        pytest.raises(OSError, match=r"No space left on device: '/dev/full'"),
        written_to(Path("/dev/full"), False, True),
    ):
        print("excerpt,score")
