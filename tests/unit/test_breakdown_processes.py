"""A local server's processes are found, named and measured; what is none of it is left alone."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from counting_server import Metrics, metrics_endpoint

from dualpath.compare.breakdown import metrics
from dualpath.compare.breakdown.processes import Usage, find_metrics, find_server, is_loopback

# Listens on two ports, of which the second one speaks HTTP, and keeps a stub that works whenever a line comes.
SERVER = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
import socket

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(b"")

    def log_message(self, *arguments):
        pass

grpc = socket.create_server(("127.0.0.1", 0))
http = HTTPServer(("127.0.0.1", 0), Handler)
Thread(target=http.serve_forever, daemon=True).start()
stub = subprocess.Popen([*sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(grpc.getsockname()[1], http.server_port, flush=True)
for line in sys.stdin:
    stub.stdin.write(line)
    stub.stdin.flush()
    print(stub.stdout.readline(), end="", flush=True)
stub.stdin.close()
stub.wait()
"""
STUB = """
import sys, time
for line in sys.stdin:
    began = time.process_time()
    while time.process_time() - began < float(line):
        pass
    held = bytearray(30_000_000)
    print("done", flush=True)
"""


@contextmanager
def running(folder, name):
    """Run the server under a name, with one instance of a model; give it and its ports."""
    names = folder / name, folder / "triton_python_backend_stub"
    for path in names:
        path.symlink_to(os.path.realpath(sys.executable))
    arguments = [*map(str, names), "model.py", "shm_region_1", "bert-large_0_1", "/backends/pytorch"]
    command = [arguments[0], "-c", SERVER, arguments[1], "-c", STUB, *arguments[2:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        grpc_port, http_port = process.stdout.readline().split()
        yield process, grpc_port, http_port
        process.stdin.close()


def let_work(process, seconds):
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    process.stdout.readline()


@pytest.fixture
def triton(tmp_path):
    with running(tmp_path, "tritonserver") as it:
        yield it


def test_a_server_is_found_by_the_port_it_listens_on(triton, monkeypatch):
    monkeypatch.setattr(metrics, "METRICS_TIMEOUT_S", 0.5)  # what speaks something else may never answer
    process, grpc_port, http_port = triton
    server = find_server(f"localhost:{grpc_port}")
    assert server.pid == process.pid
    assert find_metrics(server) == f"http://127.0.0.1:{http_port}/metrics"


def test_a_process_that_is_no_tritonserver_is_left_alone(tmp_path):
    with running(tmp_path, "docker-proxy") as (_, grpc_port, _):
        assert find_server(f"127.0.0.1:{grpc_port}") is None


@pytest.mark.parametrize("url", ["192.0.2.1:8001", "127.0.0.1:1", "nowhere.invalid:8001", "localhost", ""])
def test_a_server_that_is_not_here_is_not_found(url):
    assert find_server(url) is None


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("localhost:8001", True),
        ("127.0.0.2:8001", True),
        ("[::1]:8001", True),
        ("192.0.2.1:8001", False),
        ("nowhere.invalid:8001", False),
        ("localhost", False),
    ],
)
def test_an_address_is_of_this_machine_or_not(url, here):
    assert is_loopback(url) == here


def test_a_process_without_metrics_has_no_address_of_them(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)):
        assert find_metrics(psutil.Process()) is None


def test_metrics_of_this_process_are_found_on_any_address():
    with metrics_endpoint(Metrics()) as url:
        assert find_metrics(psutil.Process()) == url


def test_usage_is_what_each_process_did_between_begin_and_end(triton):
    process, *_ = triton
    usage = Usage(psutil.Process(process.pid))
    for _ in range(2):
        let_work(process, 0.3)  # between turns
        usage.begin()
        let_work(process, 0.1)
        usage.end()
    found = {it.name: it for it in usage.processes()}
    assert list(found) == ["tritonserver", "bert-large_0_1", "client"]
    assert 0.15 < found["bert-large_0_1"].cpu_s < 0.35
    assert found["bert-large_0_1"].rss_mb > 30
    assert found["tritonserver"].pid == process.pid
    assert found["client"].pid == os.getpid()


def test_a_server_that_has_ended_leaves_what_was_known_of_it(tmp_path):
    with running(tmp_path, "tritonserver") as (process, *_):
        usage = Usage(psutil.Process(process.pid))
        usage.begin()
        let_work(process, 0.1)
        usage.end()
        before = usage.processes()
    usage.begin()
    usage.end()
    assert [it for it in usage.processes() if it.name != "client"] == before[:-1]
