"""One traced request of each contender, as a timeline."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dualpath.compare.breakdown import traces
from dualpath.compare.breakdown.processes import find_server
from dualpath.compare.breakdown.traces import TracedRequest
from dualpath.compare.result import Span
from dualpath.serving.client import open_client

N_TRACED = 5
ENOUGH_S = 10.0
"""No further request is traced after it."""
TIMEOUT_S = 60.0
WRITTEN_S = 3.0
"""How long a trace file may take to appear; it takes milliseconds."""

MOST_TRACED = 100
"""Requests to a contender's model that are traced, those of other clients included: each leaves a file."""

_SETTINGS = {
    "trace_level": ["TIMESTAMPS"],
    "trace_rate": "1",
    "trace_count": str(MOST_TRACED),
    "log_frequency": "1",
}


Traced = tuple[dict[int, TracedRequest], TracedRequest]
"""All requests of a trace by id, and the one that the others are steps of."""


class _NotTraced(Exception):
    """There is no timeline; the message says why."""


def timelines(url: str, requests: Mapping[str, bytes], headers: Mapping[str, str] = {}) -> tuple[list[Span], list[str]]:
    """Trace requests of each contender, one at a time, and return the spans of the one of median duration.

    Triton's trace settings are changed for the contenders' models alone, and put back. The requests carry the parameter
    `trace_children`, by which a model on `dualpath.bls` makes its calls steps of the trace.

    Args:
        url: the server's gRPC address.
        requests: by contender, a serialised ModelInferRequest (`connection.serialise`).
        headers: that go with each request.
    Returns:
        Spans, parents before children; and notes: which contender has none, and why.
    """
    if "://" in url:
        return [], ["No timelines: they need gRPC without TLS, from the server's own machine."]
    spans: list[Span] = []
    notes: list[str] = []
    client = open_client(url, headers)
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(url, options=unlimited) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        try:
            file = _trace_file(client, url)
            for contender, serialised in requests.items():
                request = service_pb2.ModelInferRequest.FromString(serialised)
                request.parameters["trace_children"].bool_param = True
                with _tracing(client, request.model_name):
                    ids = _send(infer, request, headers)
                found = _collect(file, ids)
                spans += traces.spans(contender, *_median(found))
        except _NotTraced as reason:
            notes.append(f"No timelines: {reason}")
        except InferenceServerException as error:
            notes.append(f"No timelines: {' '.join(str(error.message()).split())}")
        except grpc.RpcError as error:
            notes.append(f"No timelines: {' '.join(str(error.details()).split())}")
        finally:
            client.close()
    return spans, notes


def _trace_file(client: grpcclient.InferenceServerClient, url: str) -> Path:
    settings = _settings(client, "")
    if settings.get("trace_mode", ["triton"]) != ["triton"]:
        raise _NotTraced(f"the server's traces go to {settings['trace_mode'][0]}.")
    [name] = settings.get("trace_file", [""])
    if not name:
        raise _NotTraced("the server has no trace file. Start it with --trace-config=triton,file=FILE.")
    try:  # A path of another machine may exist here too, so the server itself has to be seen.
        file = Path(server.cwd()) / name if (server := find_server(url)) else None
    except psutil.Error:  # it has ended, or is another user's
        file = None
    if file is None or not file.parent.is_dir():
        raise _NotTraced(f"the server writes its traces to {name}, which is not on this machine.")
    return file


@contextmanager
def _tracing(client: grpcclient.InferenceServerClient, model: str) -> Iterator[None]:
    """Let Triton trace every request to a model, each into a file of its own."""
    before, common = _settings(client, model), _settings(client, "")
    own = {name: before[name] for name in _SETTINGS if name in before} if before != common else {}
    client.update_trace_settings(model, _SETTINGS, client_timeout=TIMEOUT_S)
    try:
        yield
    finally:
        client.update_trace_settings(model, own or dict.fromkeys(_SETTINGS), client_timeout=TIMEOUT_S)


def _settings(client: grpcclient.InferenceServerClient, model: str) -> dict[str, list[str]]:
    settings = client.get_trace_settings(model, client_timeout=TIMEOUT_S).settings
    return {name: list(setting.value) for name, setting in settings.items()}


def _send(infer: Any, request: service_pb2.ModelInferRequest, headers: Mapping[str, str]) -> set[str]:
    """Send a request several times over, and return the ids by which its traces can be told."""
    ids: set[str] = set()
    started = time.monotonic()
    while len(ids) < N_TRACED and (not ids or time.monotonic() - started < ENOUGH_S):
        request.id = f"dualpath-{uuid.uuid4().hex}"
        infer(request, timeout=TIMEOUT_S, metadata=tuple(headers.items()))
        ids.add(request.id)
    return ids


def _collect(file: Path, ids: set[str]) -> list[Traced]:
    """Read the requests' traces and remove their files. What is missing after a while is left out."""
    found: dict[Path, Traced] = {}
    deadline = time.monotonic() + WRITTEN_S
    while len(found) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.05)
        for path in set(file.parent.glob(f"{file.name}.*")) - set(found):
            with suppress(OSError):
                text = path.read_text()
                read = traces.parse(text)
                roots = [trace for trace in read.values() if trace.request in ids and not trace.parent]
                if roots and text.endswith("]"):  # else it is still being written
                    found[path] = read, roots[0]
    if not found:
        raise _NotTraced(f"the server writes its traces to {file}, and none of them came up there.")
    for path in found:
        with suppress(OSError):
            path.unlink()
    return list(found.values())


def _median(found: list[Traced]) -> Traced:
    return sorted(found, key=lambda traced: traces.spans("", *traced)[0].end_ms)[len(found) // 2]
