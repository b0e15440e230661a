"""`dualpath serve` under faults: a killed process is replaced, and health says so. `make chaos` does more."""

import contextlib
import json
import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from balanced import HAPROXY
from dualpath.serving import preflight
from dualpath.serving.client import Scorer, connect
from processes import stubs, tritons

DUALPATH = str(Path(sys.executable).parent / "dualpath")
PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dualpath.json"
LINES = {"gRPC", "HTTP", "metrics", "key", "health"}
GATEWAY = {"gateway": "--gateway-port", "gateway-gRPC": "--gateway-grpc-port"}
"""Lines of the gateway and the options that ask for it, where HAProxy is installed."""


@pytest.fixture(scope="module")
def served(model_repository, tmp_path_factory):
    """A `dualpath serve` process, its addresses, and the file of what it says."""
    said = tmp_path_factory.mktemp("serve") / "stderr"
    gateway = GATEWAY if HAPROXY else {}
    ports = [*PORTS, *(word for option in gateway.values() for word in (option, "0"))]
    command = [DUALPATH, "serve", *ports, "--model-repository", str(model_repository)]
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            lines = LINES | gateway.keys()
            at = dict(process.stdout.readline().split() for _ in lines)
            assert at.keys() == lines
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


@contextlib.contextmanager
def prometheus(folder, *targets):
    """Run Prometheus on these metrics pages, every second; give a function that answers a query."""
    [port] = preflight.check_ports("127.0.0.1", {"--port": 0}).values()
    listed = ", ".join(f'"{target}"' for target in targets)
    (folder / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s }\n"
        f"scrape_configs: [{{ job_name: a, static_configs: [{{ targets: [{listed}] }}] }}]\n"
    )
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]

    def ask(expression):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        status, text = answer(url)
        assert status == 200, text
        return [float(series["value"][1]) for series in json.loads(text)["data"]["result"]]

    with subprocess.Popen(command) as process:
        try:
            until(lambda: reachable(f"http://127.0.0.1:{port}/-/ready"), "Prometheus")
            yield ask
        finally:
            process.terminate()


def reachable(url):
    with contextlib.suppress(OSError):
        return answer(url)[0] == 200
    return False


@pytest.mark.skipif(not HAPROXY, reason="needs HAProxy: `apt-get install haproxy`")
@pytest.mark.parametrize("model", ["ensemble_all", "orchestrator"])
def test_through_the_gateway_grpc_scores_the_same_and_loads_nothing(served, model):
    _, at, _ = served
    until(lambda: ready(at), "the first score")
    through = {"gRPC": at["gateway-gRPC"]}
    assert score(through, model).tolist() == score(at, model).tolist()
    assert answer(f"{at['gateway']}/v2/health/ready")[0] == 200
    with grpcclient.InferenceServerClient(at["gateway-gRPC"]) as client, pytest.raises(InferenceServerException):
        client.load_model("cuml", client_timeout=20)


def test_every_query_of_the_dashboard_finds_data_under_load_and_no_fault_before_there_was_one(served, tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("needs Prometheus: `apt-get install prometheus`")
    process, at, said = served
    panels = json.loads(DASHBOARD.read_text())["panels"]
    title = "Seconds since the last fault"
    [since_fault] = [panel["targets"][0]["expr"] for panel in panels if panel["title"] == title]
    pages = [at[name].removeprefix("http://").partition("/")[0] for name in ("metrics", "health")]
    with prometheus(tmp_path, *pages) as ask:
        until(lambda: ask("dualpath_ready"), "the first values")
        assert ask(since_fault) == []
        os.kill(stubs(triton_of(process), "cuml")[0], signal.SIGKILL)
        until(lambda: "cuml: replaced within" in said.read_text(), "cuml")
        client = connect(at["gRPC"])
        for model in ("orchestrator", "ensemble_all") * 30:
            Scorer(client, model).score([b"The cat sat on the mat."], np.array([0.5], np.float32), client_timeout=30)
            time.sleep(0.1)
        client.close()
        found = {
            f"{panel['title']}: {target['expr']}": ask(target["expr"].replace("$__rate_interval", "10s"))
            for panel in panels
            for target in panel["targets"]
        }
    empty = [query for query, values in found.items() if not any(map(math.isfinite, values))]
    assert empty == []
    assert len(found) > 15
    [elapsed_s] = found[f"{title}: {since_fault}"]
    assert 0 < elapsed_s < 300


def test_the_health_page_is_as_prometheus_expects_and_tritons_but_for_what_is_explained(served):
    if not shutil.which("promtool"):
        pytest.skip("needs promtool: `apt-get install prometheus`")
    _, at, _ = served

    def complaints(url):
        command = ["promtool", "check", "metrics"]
        done = subprocess.run(command, input=answer(url)[1], capture_output=True, text=True)
        return done.stderr.splitlines()

    assert complaints(at["health"].replace("/ready", "/metrics")) == []
    explained = re.compile(r"nv_|bls_\w+_(bucket|sum|count) ")  # in docs/operate.md
    assert [line for line in complaints(at["metrics"]) if not explained.match(line)] == []


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
    assert status["restarts"]["bert-large"] == 1
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


def test_callers_of_a_killed_pipeline_are_failed_though_they_set_no_deadline(served):
    process, at, said = served
    until(lambda: ready(at), "the first scores")
    before, server, outcomes = score(at), triton_of(process), queue.SimpleQueue()
    n_restarts = said.read_text().count("server: serving again")
    [pipeline] = stubs(server, "orchestrator")
    client = grpcclient.InferenceServerClient(at["gRPC"])
    for _ in range(16):
        client.async_infer("orchestrator", half(), lambda result, error: outcomes.put(error))
    os.kill(pipeline, signal.SIGKILL)
    errors = [outcomes.get(timeout=60) for _ in range(16)]  # None: answered before
    client.close()
    assert any(errors)
    assert {error.status() for error in errors if error} <= {"StatusCode.UNAVAILABLE", "StatusCode.INTERNAL"}
    until(lambda: said.read_text().count("server: serving again") > n_restarts, "the server")
    until(lambda: ready(at), "scores after it")
    assert score(at) == score(at, "ensemble_all") == before


def half():
    """The inputs of a request for both models."""
    excerpt = grpcclient.InferInput("excerpt", [1, 1], "BYTES")
    excerpt.set_data_from_numpy(np.array([[b"The cat sat on the mat."]], object))
    weight = grpcclient.InferInput("BERT_WEIGHT", [1, 1], "FP32")
    weight.set_data_from_numpy(np.array([[0.5]], np.float32))
    return [excerpt, weight]
