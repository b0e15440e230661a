"""`dualpath serve` under faults: a killed process is replaced, and health says so. `make chaos` does more."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from dualpath.serving.client import Scorer, connect
from processes import stubs, tritons

DUALPATH = str(Path(sys.executable).parent / "dualpath")
PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")
LINES = {"gRPC", "HTTP", "metrics", "key", "health"}


@pytest.fixture(scope="module")
def served(model_repository, tmp_path_factory):
    """A `dualpath serve` process, its addresses, and the file of what it says."""
    said = tmp_path_factory.mktemp("serve") / "stderr"
    command = [DUALPATH, "serve", *PORTS, "--model-repository", str(model_repository)]
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            at = dict(process.stdout.readline().split() for _ in LINES)
            assert at.keys() == LINES
            yield process, at, said
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode == 0
    assert not Path(at["key"]).exists()


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(condition, what, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


def ready(at):
    return answer(at["health"])[0] == 200


def score(at, model="orchestrator", weight=0.5):
    client = connect(at["gRPC"])
    try:
        return Scorer(client, model).score(
            [b"The cat sat on the mat."], np.array([weight], np.float32), client_timeout=30
        )
    finally:
        client.close()


def triton_of(process):
    [pid] = tritons(process.pid)
    return pid


def test_a_killed_child_is_replaced_and_the_server_stays(served):
    process, at, said = served
    until(lambda: ready(at), "the first scores")
    before, server = score(at), triton_of(process)
    killed = stubs(server, "bert-large")
    os.kill(killed[0], signal.SIGKILL)
    until(lambda: "bert-large: replaced within" in said.read_text(), "bert-large")
    assert triton_of(process) == server
    assert len(stubs(server, "bert-large")) == len(killed)
    assert not set(stubs(server, "bert-large")) & set(killed)
    assert score(at) == score(at, "ensemble_all") == before
    until(lambda: ready(at), "scores after it")
    status = json.loads(answer(at["health"].replace("/ready", "/status"))[1])
    assert status["restarts"] == {"bert-large": 1}
    assert status["last"]["bert-large"]["what"] == f"1 of {len(killed)} processes ended"
    listed = subprocess.run(
        [DUALPATH, "models", "--json", "--url", at["gRPC"]], capture_output=True, text=True, check=True
    )
    assert {row["model"]: row["restarts"] for row in json.loads(listed.stdout)["models"]}["bert-large"] == "1"


def test_a_killed_server_comes_back_on_its_ports_with_its_key(served):
    process, at, said = served
    before, server, key = score(at), triton_of(process), Path(at["key"]).read_text()
    os.kill(server, signal.SIGKILL)
    until(lambda: "server: serving again" in said.read_text(), "the server")
    assert triton_of(process) != server
    assert Path(at["key"]).read_text() == key
    assert score(at) == score(at, "ensemble_all") == before
    until(lambda: ready(at), "scores after it")
    assert answer(at["health"].replace("/ready", "/live"))[0] == 200
    assert 'dualpath_restarts_total{model="server"} 1' in answer(at["health"].replace("/ready", "/metrics"))[1]
