"""A comparison over TLS: both the questions about the models and the load."""

import json
import os
import ssl
import subprocess
import sys

import pytest
from served_models import PAIR, served
from test_compare_http import answering

HTTPS = """
import asyncio, sys
from dualpath.compare.connection import over_http
from dualpath.compare.rest import live_client
from tritonclient.grpc import service_pb2

live_client(sys.argv[1], {})

async def ask():
    async with over_http(sys.argv[1]) as send:
        await send(service_pb2.ModelInferRequest(model_name="any").SerializeToString())

asyncio.run(ask())
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The files of a certificate for localhost, which is its own authority, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "server.pem", folder / "server.key"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run([*made, "-keyout", files[1], "-out", files[0]], check=True, capture_output=True)
    return files


def run(*command, **environment):
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_models_are_compared_over_tls_if_the_authority_is_known(certificate):
    quick = ["--duration", "0.3", "--concurrency", "2", "--batch", "1", "--json"]
    with served(PAIR, tls=certificate) as (url, servicer):
        address = f"grpcs://localhost:{url.rpartition(':')[2]}"
        command = ["-m", "dualpath", "compare", "ensemble_all", "orchestrator", "--url", address, *quick]
        refused = run(*command)
        assert refused.returncode == 2
        assert (
            f"dualpath: --url: expected a Triton server at {address} (gRPC), got: self signed certificate."
            in refused.stderr
        )
        done = run(*command, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(certificate[0]))
    assert done.returncode == 0, done.stderr
    [cell] = json.loads(done.stdout)["cells"]
    assert all(it["n_requests"] > it["n_errors"] == 0 for it in cell["measured"].values())
    assert len(servicer.seen) > 30


def test_https_too(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    ok = (200, {}, b"{}")
    with answering({"/v2/health/live": ok, "/v2/models/any/infer": ok}, context) as (url, asked):
        refused = run("-c", HTTPS, url)
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        done = run("-c", HTTPS, url, SSL_CERT_FILE=str(certificate[0]))
    assert done.returncode == 0, done.stderr
    assert [path for path, *_ in asked] == ["/v2/health/live", "/v2/models/any/infer"]
