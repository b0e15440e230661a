"""The gateway's gRPC port, before a made-up Triton: what passes, and what is refused before it costs anything."""

import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from dualpath.serving import gateway as gateways
from dualpath.serving import preflight

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
WRAPS = 4611686018427387905
"""So many values of 4 bytes take 4 bytes, counted by 64 bits."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")),
    reason="needs HAProxy: `apt-get install haproxy`",
)


class Triton(grpc.GenericRpcHandler):
    """Answers every call with its own bytes, and remembers which."""

    def __init__(self):
        self.seen = []
        self.go_on = threading.Event()

    def service(self, details):
        self.seen.append(details.method)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request, context):
        if b"slow" in request[:20]:
            assert self.go_on.wait(30)
        return request


@pytest.fixture(scope="module")
def triton():
    return Triton()


@pytest.fixture(scope="module")
def at(triton, tmp_path_factory):
    with started(triton, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway.grpc_url


class started:
    """A gateway before a gRPC server that listens while inside the block."""

    def __init__(self, triton, folder, tls=None):
        unlimited = [("grpc.max_receive_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(gateways.MOST_AT_ONCE + 8), [triton], options=unlimited)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        chosen = preflight.check_ports("127.0.0.1", {"--gateway-port": 0, "--gateway-grpc-port": 0})
        side = gateways.GrpcSide(chosen["--gateway-grpc-port"], f"127.0.0.1:{port}", tls)
        self._gateway = gateways.Gateway(
            "127.0.0.1", chosen["--gateway-port"], "127.0.0.1:2", folder / "log", ["other", "slow"], side
        )

    def __enter__(self):
        return self._gateway.__enter__()

    def __exit__(self, *exception):
        self._gateway.__exit__(*exception)
        self._server.stop(0).wait()


@pytest.fixture
def ask(at, triton):
    """ask(bytes, method) -> the answer's bytes, or the code and the words of the refusal."""
    triton.seen.clear()
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(at, options=options) as channel:

        def ask(request, method=INFER, **how):
            try:
                return channel.unary_unary(method)(request, timeout=20, **how)
            except grpc.RpcError as error:
                return error.code().name, error.details()

        yield ask


def request(*shapes, model="orchestrator", raw=b"\0" * 4):
    asked = service_pb2.ModelInferRequest(model_name=model)
    for number, shape in enumerate(shapes):
        asked.inputs.add(name=f"x{number}", datatype="FP32", shape=shape)
        asked.raw_input_contents.append(raw)
    return asked.SerializeToString()


@pytest.mark.parametrize("shapes", [[[1, 1]], [[512, 1], [512, 1]], [[]], [[0, 1]], []])
def test_a_request_passes_as_it_is(ask, triton, shapes):
    sent = request(*shapes)
    assert ask(sent) == sent
    assert triton.seen == [INFER]


def test_a_large_request_passes(ask):
    sent = request([1, 250_000], raw=b"\x07" * 1_000_000)
    assert ask(sent) == sent


@pytest.mark.parametrize(
    "shape", [[1, WRAPS], [WRAPS, 1], [2**32, 1], [-1, 1], [1, -(2**63)], [2**16, 2**16, 2**16, 2**16], [10**9]]
)
def test_a_shape_that_triton_cannot_count_is_refused_and_does_not_reach_it(ask, triton, shape):
    sentence = "gateway: expected shapes of less than 1000000000 values, got one of more. Correct it."
    assert ask(request([1, 1], shape)) == ("INVALID_ARGUMENT", sentence)
    assert ask(request(shape, [1, 1])) == ("INVALID_ARGUMENT", sentence)
    assert triton.seen == []


def test_a_shape_is_found_however_it_is_encoded(ask, triton):
    tensor = b"\x0a\x01x\x12\x04FP32"
    one_by_one = b"\x18\x01\x18" + varint(WRAPS)
    packed = bytes([0x1A, len(varint(WRAPS))]) + varint(WRAPS)
    for shape in (one_by_one, packed):
        inputs = tensor + shape
        raw = b"\x3a\x04\0\0\0\0"
        for sent in (raw + b"\x2a" + bytes([len(inputs)]) + inputs, b"\x2a" + bytes([len(inputs)]) + inputs + raw):
            assert list(service_pb2.ModelInferRequest.FromString(sent).inputs[0].shape)[-1] == WRAPS
            assert ask(sent)[0] == "INVALID_ARGUMENT"
    assert triton.seen == []


def varint(number):
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x2a\x7f", "INVALID_ARGUMENT"),
        (b"\xff" * 12, "INVALID_ARGUMENT"),
        (b"\x28\x01", "INVALID_ARGUMENT"),
        (b"\x2b", "INVALID_ARGUMENT"),
        (b"\0" * (gateways.MOST_BYTES_GRPC + 5000), "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_cannot_be_read_is_refused(ask, triton, sent, code):
    assert ask(sent)[0] == code
    assert triton.seen == []


def test_a_compressed_request_is_refused(ask, triton):
    assert ask(request([1, 1]) * 50, compression=grpc.Compression.Gzip)[0] == "UNIMPLEMENTED"
    assert triton.seen == []


@pytest.mark.parametrize(
    "method", ["ModelStreamInfer", "RepositoryModelLoad", "SystemSharedMemoryRegister", "TraceSetting", "x/ModelInfer"]
)
def test_calls_that_scoring_does_not_need_are_refused(ask, triton, method):
    assert ask(b"", SERVICE + method)[0] == "UNIMPLEMENTED"
    assert triton.seen == []


def test_a_refusal_says_that_it_is_grpc_as_clients_in_go_expect(at):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    for path in (f"{SERVICE}RepositoryIndex", INFER):  # by HAProxy's own rule, and by the filter
        command = f"curl -sS --http2-prior-knowledge -D - -o /dev/null -X POST http://{at}{path}"
        done = subprocess.run(command.split(), capture_output=True, text=True, check=True, timeout=20)
        assert "content-type: application/grpc\n" in done.stdout
        assert "grpc-status: 12\n" in done.stdout


@pytest.mark.parametrize("method", ["ServerReady", "ModelReady", "ServerMetadata", "ModelConfig", "ModelStatistics"])
def test_calls_that_scoring_needs_pass(ask, method):
    assert ask(b"", SERVICE + method) == b""


def test_an_ensemble_beyond_its_bound_is_refused_and_others_are_not(ask, triton):
    slow = request([1, 1], model="slow")
    with ThreadPoolExecutor(gateways.MOST_AT_ONCE) as clients:
        waiting = [clients.submit(ask, slow) for _ in range(gateways.MOST_AT_ONCE)]
        deadline = time.monotonic() + 20
        while len(triton.seen) < gateways.MOST_AT_ONCE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sentence = "gateway: expected at most 64 requests of slow at a time, got more. Retry."
        assert ask(slow) == ("UNAVAILABLE", sentence)
        assert ask(b"\x0a\x05other" + slow) == ("UNAVAILABLE", sentence)  # of two names the last one counts
        assert ask(slow + b"\x08\x05") == ("UNAVAILABLE", sentence)  # a number is no name
        assert ask(request([1, 1])) == request([1, 1])
        triton.go_on.set()
        assert [it.result() for it in waiting] == [slow] * gateways.MOST_AT_ONCE
    assert ask(slow) == slow


def test_it_has_tls_with_a_certificate(triton, tmp_path):
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    with started(triton, tmp_path, (certificate, key)) as gateway:
        assert gateway.grpc_url.startswith("grpcs://")
        with grpcclient.InferenceServerClient(
            gateway.grpc_url.removeprefix("grpcs://"), ssl=True, root_certificates=str(certificate)
        ) as client:
            tensor = grpcclient.InferInput("x", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
            client.infer("orchestrator", [tensor])
