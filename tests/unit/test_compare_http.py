"""HTTP in place of gRPC: what goes over the connection, and what is asked of the server about itself."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from dualpath.compare import connection as http_module
from dualpath.compare import target
from dualpath.compare.connection import HEADER_LENGTH, HTTPRefusal, over_http, serialise
from dualpath.compare.connection import decode_http as decode
from dualpath.compare.rest import RestClient, live_client
from dualpath.compare.sequences import flags
from dualpath.errors import UserError

CONFIG = {
    "name": "doubler",
    "max_batch_size": 8,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1], "optional": True}],
    "output": [{"name": "Y", "data_type": "TYPE_BF16", "dims": [2]}],
    "something_newer": {"a": 1},
}
STATISTICS = {"model_stats": [{"name": "doubler", "version": "1", "inference_count": 3, "execution_count": 2}]}


@contextmanager
def answering(answers, tls=None):
    """Serve answers by path, each (status, headers, body); give the address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, {name.lower(): it for name, it in self.headers.items()}, body))
            status, headers, answer = answers.get(self.path, (404, {}, b'{"error": "no such thing"}'))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https://localhost' if tls else 'http://127.0.0.1'}:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_requests_are_made_once_until_they_are_too_many_bytes(monkeypatch):
    monkeypatch.setattr(http_module, "MAX_KEPT", 3000)
    kept, made = http_module._Kept(), []
    monkeypatch.setattr(http_module, "_as_http", lambda request: made.append(request[:1]) or ("/", {}, request))
    for first in (b"a", b"b", b"a", b"c", b"a", b"c"):
        assert kept[first * 1200][2] == first * 1200
        assert sum(map(len, kept)) == kept.n_bytes <= 3000
    assert made == [b"a", b"b", b"c", b"a"]


def send(url, request, headers=()):
    async def once():
        async with over_http(url, headers) as sending:
            return await sending(request)

    return asyncio.run(once())


def request():
    tensor = grpcclient.InferInput("X", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
    return serialise("doubler", [tensor], ["Y"], "3")


def test_tensors_go_in_binary_with_headers_and_parameters():
    described = {
        "outputs": [
            {"name": "Y", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
            {"name": "T", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
        ]
    }
    header = json.dumps(described).encode()
    raw = np.array([0x3F80, 0x4000], "<u2").tobytes() + b"\2\0\0\0hi"
    path = "/v2/models/doubler/versions/3/infer"
    with answering({path: (200, {HEADER_LENGTH: str(len(header))}, header + raw)}) as (url, asked):
        answer = decode(send(url, request() + flags(5, True, False), (("authorization", "Bearer x"),)))
    assert {name: array.tolist() for name, array in answer.items()} == {"Y": [[1, 2]], "T": [b"hi"]}
    [(_, headers, body)] = asked
    assert headers["authorization"] == "Bearer x"
    at = int(headers[HEADER_LENGTH.lower()])
    sent = json.loads(body[:at])
    assert sent["inputs"] == [{"name": "X", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]
    assert sent["outputs"] == [{"name": "Y", "parameters": {"binary_data": True}}]
    assert sent["parameters"] == {"sequence_id": 5, "sequence_start": True, "sequence_end": False}
    assert np.frombuffer(body[at:], np.float32).tolist() == [1, 2]


def test_a_connection_has_many_requests_under_way_at_once():
    both = threading.Barrier(2)

    class WhenBothAreThere(dict):
        def get(self, path, default):
            both.wait(10)
            return super().get(path, default)

    async def twice(url):
        async with over_http(url) as sending:
            return await asyncio.gather(sending(request()), sending(request()))

    with answering(WhenBothAreThere({"/v2/models/doubler/versions/3/infer": (200, {}, b"{}")})) as (url, _):
        assert [decode(answer) for answer in asyncio.run(twice(url))] == [{}, {}]


def test_an_error_has_the_servers_words_and_status():
    with answering({"/v2/models/doubler/versions/3/infer": (400, {}, b'{"error": "X: too long"}')}) as (url, _):
        with pytest.raises(HTTPRefusal, match="X: too long") as refused:
            send(url, request())
        assert refused.value.status == 400


def test_a_model_is_read_as_by_grpc():
    ok = (200, {}, b"")
    answers = {
        "/v2/health/live": ok,
        "/v2/models/doubler/ready": ok,
        "/v2/models/doubler/config": (200, {}, json.dumps(CONFIG).encode()),
        "/v2/models/stats": (200, {}, json.dumps(STATISTICS).encode()),
        "/v2": (200, {}, b'{"name": "triton", "version": "2.51.0"}'),
        "/v2/repository/index": (200, {}, b'[{"name": "doubler", "state": "READY"}]'),
    }
    with answering(answers) as (url, asked):
        client = live_client(url, {"x-team": "7"})
        found = target.read(client, "doubler")
        assert (found.max_batch_size, found.optional, found.outputs[0].dtype) == (8, {"X"}, "TYPE_BF16")
        assert found.inputs[0].dims == (-1,)
        assert client.get_server_metadata(as_json=True)["version"] == "2.51.0"
        [counted] = client.get_inference_statistics().model_stats
        assert (counted.name, counted.inference_count, counted.execution_count) == ("doubler", 3, 2)
        assert client.get_model_config("doubler").config.max_batch_size == 8
        with pytest.raises(UserError, match=r"tripler: expected a model that is ready, .*It serves doubler;"):
            target.read(client, "tripler")
        assert all(headers["x-team"] == "7" for _, headers, _ in asked)


def test_an_address_that_does_not_answer_is_refused():
    with answering({}) as (url, _), pytest.raises(UserError, match=r"\(HTTP\), got: a server that is not alive"):
        live_client(url, {})
    with pytest.raises(UserError, match=r"expected a Triton server at http://127\.0\.0\.1:1 \(HTTP\), got: "):
        live_client("http://127.0.0.1:1", {})
    with answering({"/v2": (200, {}, b"<html>")}) as (url, _):
        with pytest.raises(InferenceServerException, match="expected JSON"):
            RestClient(url, {}).get_server_metadata(as_json=True)
        with pytest.raises(InferenceServerException, match="no such thing"):
            RestClient(url, {}).get_model_config("doubler")
