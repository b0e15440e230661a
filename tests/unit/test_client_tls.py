"""A client that trusts a server by its own certificate, by whatever name it is reached; others do not."""

import subprocess
from concurrent import futures

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dualpath.serving import preflight
from dualpath.serving.client import open_client


class Live(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that is alive."""

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)


@pytest.fixture(scope="module", params=["scores.example.org", "*.example.org"])
def served(request, tmp_path_factory):
    """The address of a server with TLS, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "server.pem", folder / "server.key"
    name = ["-subj", f"/CN={request.param}", "-addext", f"subjectAltName=DNS:{request.param}"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    preflight.check_tls((certificate, key))
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Live(), server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"grpcs://127.0.0.1:{port}", certificate
    server.stop(None)


def test_the_servers_own_certificate_is_enough(served):
    url, certificate = served
    with open_client(url, certificate=certificate) as client:
        assert client.is_server_live(client_timeout=10)


def test_without_it_the_server_is_not_trusted(served):
    url, _ = served
    with open_client(url) as client, pytest.raises(InferenceServerException, match=r"UNAVAILABLE|failed"):
        client.is_server_live(client_timeout=10)
