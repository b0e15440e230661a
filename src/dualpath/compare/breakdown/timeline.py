"""One traced request of each contender, as a timeline."""

from __future__ import annotations

from collections.abc import Mapping

from dualpath.compare.result import Span


def timelines(url: str, requests: Mapping[str, bytes]) -> tuple[list[Span], list[str]]:
    """Trace requests of each contender, one at a time, and return the spans of the one of median duration.

    Trace settings are changed for the contenders' models alone, and put back.

    Args:
        url: the server's gRPC address.
        requests: by contender, a serialised ModelInferRequest (`load.serialise`).
    Returns:
        Spans, parents before children; and notes: which contender has none, and why.
    """
    raise NotImplementedError
