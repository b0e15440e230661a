"""Steps of each contender, from Triton's statistics."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tritonclient.grpc as grpcclient

from dualpath.compare.result import Step

STATISTICS_TIMEOUT_S = 10.0
_PAUSE_S = 0.02
"""An answer can reach its caller this long before it is counted."""
_PATIENCE_S = 1.0

ENSEMBLE_NOTE = "all of its steps together; what requests shared counts for each"
CALLER_NOTE = "until `execute` returned; what it answered later is in its stages"

_Key = tuple[str, str]
"""A model and its version."""


Statistics = Mapping[_Key, Counter[str]]
"""What Triton has counted of each model: "rows", "executions", and nanoseconds of "queue" and "compute"."""


def read(client: grpcclient.InferenceServerClient) -> dict[_Key, Counter[str]]:
    """Read every model's counts; InferenceServerException if the server does not answer."""
    answer = client.get_inference_statistics(client_timeout=STATISTICS_TIMEOUT_S)
    return {(model.name, model.version): _counts(model) for model in answer.model_stats}


def read_settled(client: grpcclient.InferenceServerClient) -> dict[_Key, Counter[str]]:
    """Read every model's counts when they have stopped growing, or after a second."""
    before, deadline = read(client), time.monotonic() + _PATIENCE_S
    while True:
        time.sleep(_PAUSE_S)
        now = read(client)
        if now == before or time.monotonic() > deadline:
            return now
        before = now


def difference(after: Statistics, before: Statistics) -> dict[_Key, Counter[str]]:
    """Return the models whose counts have changed, and by how much; all of it, if one was loaded again meanwhile."""
    pairs = {key: (now, before.get(key, Counter())) for key, now in after.items()}
    changes = {key: now - then if now >= then else now for key, (now, then) in pairs.items()}
    return {key: counts for key, counts in changes.items() if any(counts.values())}


@dataclass
class Share:
    """What the models did in one contender's turns.

    Attributes:
        model: the contender's own; None if it is not one model of the server.
        version: "" is the one that Triton chooses.
        is_ensemble: whether its own figures are those of its steps.
        n_rows: rows asked, if it has no model of its own that counts them.
    """

    model: str | None = None
    version: str = ""
    is_ensemble: bool = False
    n_rows: int = 0
    counts: dict[_Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, turn: Statistics) -> None:
        """Add a turn's differences."""
        for key, counts in turn.items():
            self.counts[key] += counts

    def steps(self, contender: str) -> list[Step]:
        """Return the contender's own model, then the others by what they cost."""
        n_asked = sum(counts["rows"] for key, counts in self.counts.items() if self._is_own(key)) or self.n_rows
        if not n_asked:
            return []
        n_versions = Counter(model for model, _ in self.counts)
        by_cost = sorted(self.counts.items(), key=lambda it: (not self._is_own(it[0]), -it[1]["compute"]))
        return [
            Step(
                contender,
                model if n_versions[model] == 1 else f"{model}:{version}",
                counts["rows"],
                counts["executions"],
                counts["queue"] / 1e6 / n_asked,
                counts["compute"] / 1e6 / n_asked,
                self._note((model, version)),
            )
            for (model, version), counts in by_cost
        ]

    def _is_own(self, key: _Key) -> bool:
        return key[0] == self.model and self.version in ("", key[1])

    def _note(self, key: _Key) -> str:
        if not self._is_own(key) or len(self.counts) == 1:
            return ""
        return ENSEMBLE_NOTE if self.is_ensemble else CALLER_NOTE


def _counts(model: Any) -> Counter[str]:
    # By batch, if there are any: these count an execution once, however many requests were merged in it.
    durations = list(model.batch_stats) or [model.inference_stats]
    compute_ns = sum(it.compute_input.ns + it.compute_infer.ns + it.compute_output.ns for it in durations)
    queue_ns = model.inference_stats.queue.ns
    return Counter(rows=model.inference_count, executions=model.execution_count, queue=queue_ns, compute=compute_ns)
