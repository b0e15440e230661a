"""`dualpath compare` on a real Triton: what it finds, and what is left when the server or the user ends it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import asking
import pytest
from tritonclient.utils import InferenceServerException

import processes
from dualpath.errors import UserError
from dualpath.readability.samples import SAMPLES
from dualpath.serving.client import connect
from pipeline_models import write

N_ROWS = 2500
"""More than parity and the warm-up send."""

DUALPATH = [sys.executable, "-c", "from dualpath.cli import main; main()"]


def dualpath(*arguments, timeout=120):
    return subprocess.run([*DUALPATH, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


@contextmanager
def running(*arguments):
    """Run the command; whatever happens it is gone in the end, and so is the server that it started."""
    command = [*DUALPATH, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def loaded(process):
    """Wait until the command's own server is under load; return its process id."""
    deadline = time.monotonic() + 150
    while True:
        assert time.monotonic() < deadline, "no load"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
        with suppress(UserError, InferenceServerException, FileNotFoundError):  # not up yet
            for pid, url in processes.tritons(process.pid).items():
                client = connect(url)
                n_rows = asking.rows_so_far(client, "again")
                client.close()
                if n_rows >= N_ROWS:
                    return pid


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two models that load within a second."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("right", "again"):
        write(folder, name, "two_heads", FAULT="")
    return folder


def test_both_styles_are_compared_on_a_running_server(server, tmp_path, tolerance):
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["excerpt", "bert_weight"], *([text, 0.25] for text in list(SAMPLES.values())[:4])])
    arguments = ("--input", path, "--concurrency", "2", "--batch", "1,4", "--rate", "5", "--duration", "0.5")
    done = dualpath("compare", "--url", server.grpc_url, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [parity] = result["parity"]
    assert (parity["output"], parity["n_rows"], parity["atol"]) == ("SCORE", 4, 2e-5)
    assert parity["largest"] <= tolerance
    assert [(cell["load"]["batch"], cell["load"]["rate"]) for cell in result["cells"]] == [
        (1, None),
        (4, None),
        (1, 5),
        (4, 5),
    ]
    for cell in result["cells"]:
        assert cell["compared"].keys() == {"orchestrator"}
        for measured in cell["measured"].values():
            assert measured["n_requests"] > 0
            assert measured["n_errors"] == measured["n_timeouts"] == 0
    assert result["environment"]["server"].startswith("triton 2.")


def test_a_mix_is_kept_apart_by_weight(server):
    arguments = ("--mix", "0:0.5,0.7:0.5", "--concurrency", "2", "--batch", "1", "--duration", "0.6")
    done = dualpath("compare", "--url", server.grpc_url, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parity"][0]["n_rows"] == 2 * len(SAMPLES)
    assert result["cells"][0]["measured"]["orchestrator"]["groups_ms"].keys() == {"0", "0.7"}


def test_models_with_other_inputs_are_refused(server):
    done = dualpath("compare", "ensemble_all", "bert-large", "--url", server.grpc_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "dualpath: ensemble_all, bert-large: expected the same inputs, got excerpt, BERT_WEIGHT of ensemble_all "
    )


@pytest.mark.parametrize(
    ("number", "code", "note"), [(signal.SIGKILL, 1, "The server went away"), (signal.SIGINT, 130, "Interrupted")]
)
def test_an_end_before_the_end_leaves_a_report(repository, tmp_path, number, code, note):
    report = tmp_path / "report"
    arguments = ("--concurrency", "2", "--batch", "1", "--duration", "60", "--json", "--report", report)
    rows = ("--random", 20, "--model-repository", repository)
    with running("compare", "right", "again", *arguments, *rows) as process:
        triton = loaded(process)
        os.kill(triton if number == signal.SIGKILL else process.pid, number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    result = json.loads(out)
    assert result["failed"] == (number == signal.SIGKILL)
    assert any(it.startswith(note) for it in result["notes"])
    assert result["parity"][0]["n_rows"] == 20
    [cell] = result["cells"]
    assert all(measured["latencies_ms"]["50"] > 0 for measured in cell["measured"].values())
    assert note in (report / "index.html").read_text(encoding="utf-8")
    assert not Path(f"/proc/{triton}").exists()
