"""The end of a comparison: Ctrl-C, whenever it comes, loses nothing that was found."""

import json
import os
import signal

import pytest

from dualpath.cli import compare_view
from dualpath.cli.compare import MOST, numbers
from dualpath.cli.compare_view import Ending
from dualpath.compare.result import Result
from dualpath.errors import UserError


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def show(result, console):
    console.print(result.verdict)


def ended(as_json=False, report=None, show=show, **outcome):
    """Return the exit code of a run with this outcome."""
    ending = Ending(show, as_json, report)
    ending.finish(Result("a pair", ["A", "B"], verdict="B wins.", **outcome))
    return ending.exit_code


@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 1)])
def test_a_run_ends_with_its_figures_and_whether_it_failed(failed, code, capsys):
    assert ended(failed=failed) == code
    assert capsys.readouterr().out == "B wins.\n"


def test_ctrl_c_while_it_runs_is_130_and_prints_what_was_found(capsys):
    assert ended(as_json=True, failed=True, interrupted=True) == 130
    assert json.loads(capsys.readouterr().out)["verdict"] == "B wins."


def test_ctrl_c_while_the_end_is_printed_and_drawn_loses_neither(monkeypatch, capsys, tmp_path):
    def write(result, folder):
        ctrl_c()
        return folder / "index.html"

    def interrupted(result, console):
        ctrl_c()
        show(result, console)

    monkeypatch.setattr(compare_view.reports, "write", write)
    before = signal.getsignal(signal.SIGINT)
    assert ended(show=interrupted, report=tmp_path) == 0
    assert signal.getsignal(signal.SIGINT) is before
    out, err = capsys.readouterr()
    assert (out, err) == ("B wins.\n", f"Report: {tmp_path / 'index.html'}\n")


@pytest.mark.parametrize(("text", "kind"), [("1,100000000", int), ("1e8", float)])
def test_more_than_one_process_can_send_is_refused(text, kind):
    with pytest.raises(UserError, match=r"^--rate: expected at most 10,000, got 1\S*\. Give less\.$"):
        numbers("--rate", text, kind, MOST)
    assert numbers("--rate", "10000", kind, MOST) == [10_000]
