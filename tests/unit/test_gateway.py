"""The gateway, before a made-up Triton: what passes, and what is refused before it costs anything."""

import http.client
import http.server
import json
import shutil
import socket
import threading
import time
from typing import ClassVar

import numpy as np
import psutil
import pytest
import tritonclient.http as httpclient

from dualpath.errors import UserError
from dualpath.serving import gateway as gateways
from dualpath.serving import preflight

INFER = "/v2/models/orchestrator/infer"
BINARY = json.dumps(
    {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}
)
JSON_DATA = json.dumps({"inputs": [{"name": "x", "shape": [2147483648, 1], "datatype": "FP32", "data": [1, 2, 3]}]})

pytestmark = pytest.mark.skipif(
    not (shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")),
    reason="needs HAProxy: `apt-get install haproxy`",
)


class Triton(http.server.BaseHTTPRequestHandler):
    """Answers everything, and remembers it."""

    seen: ClassVar[list[str]] = []
    go_on: ClassVar[threading.Event] = threading.Event()

    def _answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(self.path)
        if self.path.startswith("/v2/models/slow/"):
            assert self.go_on.wait(30)
        body = b'{"outputs": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Triton) as triton:
        threading.Thread(target=triton.serve_forever, daemon=True).start()
        [port] = preflight.check_ports("127.0.0.1", {"--gateway-port": 0}).values()
        log = tmp_path_factory.mktemp("gateway") / "log"
        with gateways.Gateway("127.0.0.1", port, f"127.0.0.1:{triton.server_port}", log, ["slow"]) as gateway:
            yield gateway.url.removeprefix("http://")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        triton.shutdown()


@pytest.fixture
def ask(at):
    """ask(method, path, body, **headers) -> status and text."""
    Triton.seen.clear()

    def ask(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(at, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    return ask


def binary(head, data=b"\0" * 8):
    return "POST", INFER, head.encode() + data, {"Inference-Header-Content-Length": str(len(head))}


def test_binary_tensors_pass(ask):
    assert ask(*binary(BINARY)) == (200, '{"outputs": []}')
    assert ask(*binary(BINARY, b'"data" \\' * 100_000))[0] == 200  # what the tensors hold is nobody's business
    assert Triton.seen == [INFER, INFER]


def test_tritons_own_client_passes(at):
    Triton.seen.clear()
    with httpclient.InferenceServerClient(at) as client:
        tensor = httpclient.InferInput("excerpt", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"The cat"]], np.object_))
        client.infer("orchestrator", [tensor])
    assert Triton.seen == [INFER]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("POST", INFER, JSON_DATA), 415),
        (binary(JSON_DATA), 415),
        (binary(BINARY.replace("name", "n\\u0061me")), 415),
        (binary(BINARY.replace("[2]", "[ 4294967296, 1]")), 400),
        (binary(BINARY.replace("[2]", "[4294967296,4294967296]")), 400),  # 0 by 64 bits
        (("POST", INFER, BINARY, {"Inference-Header-Content-Length": "100000"}), 415),
        (("POST", INFER, BINARY, {"Inference-Header-Content-Length": "0x10"}), 415),
        (("POST", INFER, BINARY, {"Inference-Header-Content-Length": "-5"}), 415),
        (("POST", INFER, BINARY, {"Inference-Header-Content-Length": "8000"}), 400),
        (("POST", INFER, BINARY, {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "10"}), 415),
        (("POST", "/v2/repository/models/evil/load", "{}"), 404),
        (("POST", "/v2/repository/index", "{}"), 404),
        (("GET", "/v2/logging"), 404),
        (("GET", "/v2/systemsharedmemory/status"), 404),
        (("GET", "/v2/models/orchestrator/trace/setting"), 404),
        (("GET", "/v2/models/../logging"), 404),
        (("GET", "/v2/models/%2e%2e/../logging"), 404),
        (("DELETE", "/v2/models/orchestrator"), 405),
    ],
)
def test_what_can_cost_much_is_refused_and_does_not_reach_triton(ask, request_, status):
    assert ask(*request_)[0] == status
    assert Triton.seen == []


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/ready", "/v2/models/a", "/v2/models/a/versions/1/config", "/v2/models/a/stats"]
)
def test_what_scoring_needs_passes(ask, path):
    assert ask("GET", path)[0] == 200


def raw(at, text):
    """Send bytes; return the first line of the answer."""
    host, port = at.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(text)
        return connection.makefile("rb").readline().decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 99999999999", 413),
        ("Transfer-Encoding: chunked", 411),
        ("Content-Length: 4\r\nContent-Length: 5", 400),
        ("Content-Length: 4\r\nInference-Header-Content-Length: 2\r\nInference-Header-Content-Length: 4", 400),
        ("Content-Length: nonsense", 400),
    ],
)
def test_lengths_that_are_absent_or_lie_are_refused(at, headers, status):
    Triton.seen.clear()
    assert f" {status} " in raw(at, f"POST {INFER} HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\nabcd".encode())
    assert Triton.seen == []


def test_an_ensemble_beyond_its_bound_is_refused_and_others_are_not(at):
    Triton.seen.clear()
    head = {"Inference-Header-Content-Length": str(len(BINARY))}
    statuses = []

    def ask(path):
        connection = http.client.HTTPConnection(at, timeout=30)
        connection.request("POST", path, BINARY.encode() + b"\0" * 8, head)
        answer = connection.getresponse()
        statuses.append((answer.status, answer.headers.get("Retry-After"), answer.read().decode()))
        connection.close()

    clients = [
        threading.Thread(target=ask, args=(f"/v2/models/slow{'/versions/1' * (i % 2)}/infer",))
        for i in range(gateways.MOST_AT_ONCE)
    ]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 20
    while len(Triton.seen) < gateways.MOST_AT_ONCE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ask("/v2/models/slow/infer")
    ask(INFER)
    sentence = "gateway: expected at most 64 requests of slow at a time, got more. Retry."
    assert statuses == [
        (503, "1", json.dumps({"error": sentence}, separators=(",", ":"))),
        (200, None, '{"outputs": []}'),
    ]
    Triton.go_on.set()
    for client in clients:
        client.join()
    assert [status for status, _, _ in statuses[2:]] == [200] * gateways.MOST_AT_ONCE


def test_a_proxy_that_ended_is_started_again(tmp_path):
    [port] = preflight.check_ports("127.0.0.1", {"--gateway-port": 0}).values()
    with gateways.Gateway("127.0.0.1", port, "127.0.0.1:2", tmp_path / "log") as gateway:
        assert gateway.revive() is None
        [haproxy] = psutil.Process(gateway._process.pid).children()
        haproxy.kill()
        gateway._process.wait(10)
        assert gateway.revive() == "gateway: HAProxy ended with status 137; started again"
        assert gateway.revive() is None
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_proxy_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with (
        pytest.raises(UserError, match=r"expected HAProxy with Lua, got none\. Run `apt install haproxy`"),
        gateways.Gateway("127.0.0.1", 1, "127.0.0.1:2", tmp_path / "log"),
    ):
        pass
