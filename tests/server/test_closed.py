"""What loads, traces, logs or registers shared memory is closed to whoever has no key, by HTTP, gRPC and browser."""

import http.client
import json
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from dualpath.serving import access
from dualpath.serving.client import connect

OVERRIDE = {"parameters": {"config": '{"backend": "python"}', "file:1/model.py": "aW1wb3J0IG9z"}}
CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/evil/load"),
    ("POST", "/v2/repository/models/orchestrator/unload"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", "/v2/models/orchestrator/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/a/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
]
OPEN = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/orchestrator",
    "/v2/models/orchestrator/ready",
    "/v2/models/orchestrator/config",
    "/v2/models/orchestrator/stats",
]


def ask(address, method, path, body=OVERRIDE, **headers):
    """Return the status and the body of an answer."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if method == "POST" else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_http_refuses_without_the_key(server, method, path):
    assert ask(server.http_url, method, path) == (403, ask(server.http_url, "GET", "/v2/logging")[1])
    assert ask(server.http_url, method, path, **{access.HEADER: "another-key-of-enough-letters"})[0] == 403


def test_http_answers_with_the_key(server):
    index = ask(server.http_url, "POST", "/v2/repository/index", {}, **{access.HEADER: server.key})
    assert index[0] == 200
    assert {it["name"] for it in json.loads(index[1])} >= {"orchestrator", "ensemble_all"}


@pytest.mark.parametrize("path", OPEN)
def test_what_scoring_needs_is_open(server, path):
    assert ask(server.http_url, "GET", path)[0] == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_repository_index(),
        lambda client: client.load_model(
            "evil", config='{"backend": "python"}', files={"file:1/model.py": b"import os"}
        ),
        lambda client: client.unload_model("orchestrator"),
        lambda client: client.get_trace_settings(),
        lambda client: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        lambda client: client.get_log_settings(),
        lambda client: client.update_log_settings({"log_file": "/tmp/evil"}),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("a", "/a", 8),
        lambda client: client.unregister_system_shared_memory(),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("a", b"", 0, 8),
        lambda client: client.unregister_cuda_shared_memory(),
    ],
)
def test_grpc_refuses_without_the_key(server, call):
    with (
        grpcclient.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=f"restricted, {access.REFUSED} '{access.GRPC_HEADER}'"),
    ):
        call(client)


def test_the_key_is_in_a_file_of_this_user_and_not_among_the_arguments(server):
    assert server.key_file.read_text().strip() == server.key
    assert server.key_file.stat().st_mode & 0o777 == 0o600
    assert not server.key_shows
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert server.key.encode() not in process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue


def test_no_instance_of_a_model_has_the_key_in_its_environment(server):
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            assert server.key.encode() not in Path(f"/proc/{child}/environ").read_bytes()


def test_no_other_user_can_read_what_passes_through_shared_memory(server):
    regions = [region for region in Path("/dev/shm").iterdir() if str(region) in shared_memory_of(server.pid)]
    assert regions
    assert {region.stat().st_mode & 0o077 for region in regions} == {0}


def shared_memory_of(pid):
    return {line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}


def test_the_projects_client_has_the_key(server):
    client = connect(server.grpc_url)
    assert {it.name for it in client.get_model_repository_index().models} >= {"orchestrator"}
    client.close()
