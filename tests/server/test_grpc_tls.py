"""gRPC with TLS on the real Triton: whoever trusts the certificate is served, in the clear nobody is."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from dualpath.serving import TritonServer
from dualpath.serving.client import open_client

DOUBLER = Path(__file__).parent / "fake_models" / "doubler"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of one small model with TLS."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "server.pem", folder / "server.key"
    name = ["-subj", "/CN=scores.example.org", "-addext", "subjectAltName=DNS:scores.example.org"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    shutil.copytree(DOUBLER, folder / "models" / "doubler")
    with TritonServer(folder / "models", http_port=0, grpc_port=0, metrics_port=0, tls=(certificate, key)) as server:
        yield server


def ask(client):
    tensor = grpcclient.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
    return client.infer("doubler", [tensor], client_timeout=20).as_numpy("y").tolist()


def test_a_client_that_trusts_the_certificate_is_served_and_has_the_key(served):
    assert served.grpc_url.startswith("grpcs://")
    with open_client(served.grpc_url, certificate=served.certificate) as client:
        assert ask(client) == [[2, 4]]
        assert [model.name for model in client.get_model_repository_index(client_timeout=20).models] == ["doubler"]


@pytest.mark.parametrize("url", ["grpcs://{}", "{}"])
def test_nobody_is_served_without_the_certificate_or_in_the_clear(served, url):
    address = served.grpc_url.removeprefix("grpcs://")
    with open_client(url.format(address)) as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=5)
