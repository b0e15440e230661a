"""`dualpath demo`: start a server, score a few excerpts both ways, stop it."""

import json
import sys
import time
from typing import Any

from typer import Exit

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository

_WEIGHT = 0.5
N_TURNS = 5


def demo(as_json: Json = False, model_repository: ModelRepository = DEFAULT_REPOSITORY) -> None:
    """Start Triton, score a handful of excerpts through both models, and show scores and latencies side by side.

    Latency is the median of five requests, the two models in turns. The last column is the orchestrator's with
    BERT_WEIGHT 0, with which it leaves BERT out; an ensemble cannot.
    """
    from rich.console import Console

    from dualpath.cli.serve import start
    from dualpath.readability.contract import ENSEMBLE, ORCHESTRATOR, TOLERANCES
    from dualpath.readability.samples import SAMPLES
    from dualpath.serving.client import Scorer, connect

    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    with start(model_repository, console) as server:
        client = connect(server.grpc_url)
        ensemble, orchestrator = Scorer(client, ENSEMBLE.name), Scorer(client, ORCHESTRATOR.name)
        with console.status("scoring …") as status:
            for title, text in SAMPLES.items():
                status.update(f"scoring: {title}")
                excerpt = text.encode()
                asked = [(ensemble, _WEIGHT), (orchestrator, _WEIGHT), (orchestrator, 0.0)]
                (a, a_ms), (b, b_ms), (_, light_ms) = _measure(asked, excerpt)
                row = {"excerpt": title, "ensemble_all": a, "orchestrator": b, "equal": a == b}
                times = {"ensemble_all_ms": a_ms, "orchestrator_ms": b_ms, "orchestrator_weight_0_ms": light_ms}
                rows.append(row | times)
        client.close()
    print(json.dumps(rows, indent=2)) if as_json else _show(rows)
    if any(abs(row["ensemble_all"] - row["orchestrator"]) > max(TOLERANCES.values()) for row in rows):
        print(
            "dualpath: orchestrator: expected ensemble_all's scores, got others. Run `dualpath compare`.",
            file=sys.stderr,
        )
        raise Exit(1)


def _measure(asked: list[tuple[Any, float]], excerpt: bytes) -> list[tuple[float, float]]:
    """Return the score that each scorer gives at its weight, and its median latency in ms; the first turn warms up."""
    import numpy as np

    scores, latencies = [0.0] * len(asked), np.empty((1 + N_TURNS, len(asked)))
    for turn in latencies:
        for place, (scorer, weight) in enumerate(asked):
            started = time.perf_counter()
            scores[place] = float(scorer.score([excerpt], np.array([weight], np.float32))[0])
            turn[place] = (time.perf_counter() - started) * 1e3
    return list(zip(scores, np.median(latencies[1:], axis=0).tolist(), strict=True))


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"Scores and latencies at BERT_WEIGHT {_WEIGHT}; last, the orchestrator at weight 0"
    table = Table("excerpt", title=title, title_justify="left")
    for header in ("ensemble_all", "orchestrator", "equal", "weight 0"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["excerpt"],
            f"{row['ensemble_all']:.4f} {row['ensemble_all_ms']:6.1f} ms",
            f"{row['orchestrator']:.4f} {row['orchestrator_ms']:6.1f} ms",
            "yes" if row["equal"] else "no",
            f"{row['orchestrator_weight_0_ms']:.1f} ms",
        )
    Console().print(table)
