"""Read Triton's trace files: which model worked for which request, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dualpath.compare.result import Span

GAP_MS = 0.01
"""Shorter gaps between steps are the hand-over from one to the next."""


@dataclass
class TracedRequest:
    """One request to one model.

    Attributes:
        parent: the id of the request that it is a step of; 0 if there is none.
        request: the caller's request id.
        stamps_ns: when it reached REQUEST_START, QUEUE_START, COMPUTE_START, REQUEST_END and so on.
    """

    id: int
    model: str = ""
    parent: int = 0
    request: str = ""
    stamps_ns: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[int, TracedRequest]:
    """Return the traces of a file by id, as far as it is written and well formed."""
    traces: dict[int, TracedRequest] = {}
    for entry in _entries(text):
        trace = traces.setdefault(entry["id"], TracedRequest(entry["id"]))
        if "model_name" in entry:
            trace.model = entry["model_name"]
            trace.parent = entry.get("parent_id", 0)
            trace.request = entry.get("request_id", "")
        for stamp in entry.get("timestamps", ()):
            trace.stamps_ns[stamp["name"]] = stamp["ns"]
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


def spans(contender: str, traces: dict[int, TracedRequest], root: TracedRequest) -> list[Span]:
    """Return a request's steps, parents before children, in ms from its begin.

    A model's time in the queue is a step of its own below it, "bert-large: queue". So is what is left of a caller
    between its queue, its children and its end, "orchestrator itself": Triton's own scheduling in an ensemble, the
    work of its own process in a BLS model. What it does while a child runs does not show.
    """
    return list(_spans(contender, traces, root, 0, _start_ns(root)))


def _spans(
    contender: str, traces: dict[int, TracedRequest], trace: TracedRequest, depth: int, zero_ns: int
) -> Iterator[Span]:
    def span(name: str, start_ns: int, end_ns: int, below: int = 1) -> Span:
        return Span(contender, name, depth + below, (start_ns - zero_ns) / 1e6, (end_ns - zero_ns) / 1e6)

    start_ns, end_ns = _start_ns(trace), _end_ns(trace, traces)
    yield span(trace.model, start_ns, end_ns, 0)
    parts: list[tuple[int, list[Span]]] = []
    covered: list[tuple[int, int]] = []
    if "QUEUE_START" in trace.stamps_ns and "COMPUTE_START" in trace.stamps_ns:
        queued = trace.stamps_ns["QUEUE_START"], trace.stamps_ns["COMPUTE_START"]
        covered.append(queued)
        parts.append((queued[0], [span(f"{trace.model}: queue", *queued)]))
    children = _children(trace, traces)
    for child in children:
        covered.append((_start_ns(child), _end_ns(child, traces)))
        parts.append((_start_ns(child), list(_spans(contender, traces, child, depth + 1, zero_ns))))
    if children:
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


def _children(trace: TracedRequest, traces: dict[int, TracedRequest]) -> list[TracedRequest]:
    return [child for child in traces.values() if child.parent == trace.id and child.stamps_ns]


def _start_ns(trace: TracedRequest) -> int:
    # The frontend's GRPC_WAITREAD_START lies before the request.
    return trace.stamps_ns.get("REQUEST_START", min(trace.stamps_ns.values(), default=0))


def _end_ns(trace: TracedRequest, traces: dict[int, TracedRequest]) -> int:
    """Return when a request was over: the last that is known of it, since it may be answered after REQUEST_END."""
    ends = [_end_ns(child, traces) for child in _children(trace, traces)]
    return max([*trace.stamps_ns.values(), *ends])
