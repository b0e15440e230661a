"""One traced request of each contender, as a timeline: which model worked for it, and when, from Triton's traces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dualpath.compare.breakdown.processes import find_server
from dualpath.compare.result import Span
from dualpath.serving.client import open_client

N_TRACED = 5
ENOUGH_S = 10.0
"""No further request is traced after it."""
_TIMEOUT_S = 60.0
WRITTEN_S = 3.0
"""How long a trace file may take to appear; it takes milliseconds."""

MOST_TRACED = 100
"""Requests to a contender's model that are traced, those of other clients included: each leaves a file."""

GAP_MS = 0.01
"""Shorter gaps between steps are the hand-over from one to the next."""

_SETTINGS = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": str(MOST_TRACED), "log_frequency": "1"}


@dataclass
class TracedRequest:
    """One request to one model.

    Attributes:
        parent: the id of the request that it is a step of; 0 if there is none.
        request: the caller's request id.
        stamps_ns: when it reached REQUEST_START, QUEUE_START, COMPUTE_START, REQUEST_END and so on.
        children: its steps.
    """

    id: int
    model: str = ""
    parent: int = 0
    request: str = ""
    stamps_ns: dict[str, int] = field(default_factory=dict)
    children: list[TracedRequest] = field(default_factory=list)

    @property
    def start_ns(self) -> int:
        """When it began; the frontend's GRPC_WAITREAD_START lies before it."""
        return self.stamps_ns.get("REQUEST_START", min(self.stamps_ns.values(), default=0))

    @property
    def end_ns(self) -> int:
        """The last that is known of it, since it may be answered after REQUEST_END."""
        return max([*self.stamps_ns.values(), *(child.end_ns for child in self.children)])


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
                spans += spans_of(contender, _median(file, ids))
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
    client.update_trace_settings(model, _SETTINGS, client_timeout=_TIMEOUT_S)
    try:
        yield
    finally:
        client.update_trace_settings(model, own or dict.fromkeys(_SETTINGS), client_timeout=_TIMEOUT_S)


def _settings(client: grpcclient.InferenceServerClient, model: str) -> dict[str, list[str]]:
    settings = client.get_trace_settings(model, client_timeout=_TIMEOUT_S).settings
    return {name: list(setting.value) for name, setting in settings.items()}


def _send(infer: Any, request: service_pb2.ModelInferRequest, headers: Mapping[str, str]) -> set[str]:
    """Send a request several times over, and return the ids by which its traces can be told."""
    ids: set[str] = set()
    started = time.monotonic()
    while len(ids) < N_TRACED and (not ids or time.monotonic() - started < ENOUGH_S):
        request.id = f"dualpath-{uuid.uuid4().hex}"
        infer(request, timeout=_TIMEOUT_S, metadata=tuple(headers.items()))
        ids.add(request.id)
    return ids


def _median(file: Path, ids: set[str]) -> TracedRequest:
    """Read the requests' traces, remove their files, and return the one of median duration.

    What is missing after a while is left out.
    """
    found: dict[Path, TracedRequest] = {}
    deadline = time.monotonic() + WRITTEN_S
    while len(found) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.05)
        for path in set(file.parent.glob(f"{file.name}.*")) - set(found):
            with suppress(OSError):
                text = path.read_text()
                roots = [trace for trace in parse(text).values() if trace.request in ids and not trace.parent]
                if roots and text.endswith("]"):  # else it is still being written
                    found[path] = roots[0]
    if not found:
        raise _NotTraced(f"the server writes its traces to {file}, and none of them came up there.")
    for path in found:
        with suppress(OSError):
            path.unlink()
    return sorted(found.values(), key=lambda root: root.end_ns - root.start_ns)[len(found) // 2]


def parse(text: str) -> dict[int, TracedRequest]:
    """Return the traces of a file by id, as far as it is written and well formed, each with its children."""
    traces: dict[int, TracedRequest] = {}
    for entry in _entries(text):
        trace = traces.setdefault(entry["id"], TracedRequest(entry["id"]))
        if "model_name" in entry:
            trace.model = entry["model_name"]
            trace.parent = entry.get("parent_id", 0)
            trace.request = entry.get("request_id", "")
        for stamp in entry.get("timestamps", ()):
            trace.stamps_ns[stamp["name"]] = stamp["ns"]
    for trace in traces.values():
        if trace.parent in traces and trace.stamps_ns:
            traces[trace.parent].children.append(trace)
    return traces


def _entries(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    at = text.find('{"id":')
    while at >= 0:
        try:
            entry, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:  # spoilt by quotes in a request id, which Triton does not escape
            end = at + 1
        else:
            yield entry
        at = text.find('{"id":', end)


def spans_of(contender: str, root: TracedRequest) -> list[Span]:
    """Return a request's steps, parents before children, in ms from its begin.

    A model's time in the queue is a step of its own below it, "bert-large: queue". So is what is left of a caller
    between its queue, its children and its end, "orchestrator itself": Triton's own scheduling in an ensemble, the
    work of its own process in a BLS model. What it does while a child runs does not show.
    """
    return list(_spans(contender, root, 0, root.start_ns))


def _spans(contender: str, trace: TracedRequest, depth: int, zero_ns: int) -> Iterator[Span]:
    def span(name: str, start_ns: int, end_ns: int, below: int = 1) -> Span:
        return Span(contender, name, depth + below, (start_ns - zero_ns) / 1e6, (end_ns - zero_ns) / 1e6)

    start_ns, end_ns = trace.start_ns, trace.end_ns
    yield span(trace.model, start_ns, end_ns, 0)
    parts: list[tuple[int, list[Span]]] = []
    covered: list[tuple[int, int]] = []
    if "QUEUE_START" in trace.stamps_ns and "COMPUTE_START" in trace.stamps_ns:
        queued = trace.stamps_ns["QUEUE_START"], trace.stamps_ns["COMPUTE_START"]
        covered.append(queued)
        parts.append((queued[0], [span(f"{trace.model}: queue", *queued)]))
    for child in trace.children:
        covered.append((child.start_ns, child.end_ns))
        parts.append((child.start_ns, list(_spans(contender, child, depth + 1, zero_ns))))
    if trace.children:
        for gap in _gaps(start_ns, end_ns, covered):
            parts.append((gap[0], [span(f"{trace.model} itself", *gap)]))
    for _, part in sorted(parts, key=lambda part: part[0]):
        yield from part


def _gaps(start_ns: int, end_ns: int, covered: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = start_ns
    for begin, end in [*sorted(covered), (end_ns, end_ns)]:
        if begin - at > GAP_MS * 1e6:
            yield at, begin
        at = max(at, end)
