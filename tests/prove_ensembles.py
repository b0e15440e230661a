"""Serve hundreds of random ensembles beside their scaffolds and compare every answer and every failure.

Each server has a pool of stand-in models, random ensembles over it, and the BLS model that `dualpath scaffold` writes
for each. Prints what differs; the exit code is 1 if anything does.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.http as httpclient

from dualpath.convert.check import check_repository
from dualpath.convert.graph import load_ensemble
from dualpath.convert.scaffold import scaffold
from dualpath.serving.server import TritonServer
from random_ensembles import write_graphs
from same_answers import PATIENCE_S, differences

N_MODELS = 24
EXTRA = ["--backend-config=python,shm-default-byte-size=1048576"]


def prove(seed: int, n_graphs: int, n_requests: int) -> tuple[list[str], int, int, int]:
    """Return what differs, how many steps there were, and how many requests were answered and failed."""
    found: list[str] = []
    n_steps = n_answered = n_failed = 0
    with tempfile.TemporaryDirectory(prefix="dualpath-prove-") as folder:
        repository = Path(folder) / "models"
        repository.mkdir()
        names = write_graphs(repository, random.Random(seed), N_MODELS, n_graphs)
        found += [f"check: {finding}" for finding in check_repository(repository, n_cores=64)]
        for name in names:
            scaffold(repository / name)
        with TritonServer(
            repository, http_port=0, grpc_port=0, metrics_port=0, server="embedded", extra_args=EXTRA
        ) as server:
            client = httpclient.InferenceServerClient(server.http_url, network_timeout=PATIENCE_S)
            for i, name in enumerate(names):
                ensemble = load_ensemble(repository / name)
                parts = [f"part{i}" for i in range(N_MODELS)]
                pair = name, f"{name}_bls"
                inputs = np.random.default_rng([seed, i])
                differing, answered, failed = differences(client, ensemble, pair, inputs, n_requests, parts)
                found += differing
                for difference in differing:
                    print(f"seed {seed}: {difference[:2000]}", flush=True)
                server.wait(0)  # raises if Triton has ended
                n_steps += len(ensemble.graph.steps)
                n_answered += answered
                n_failed += failed
            client.close()
    return found, n_steps, n_answered, n_failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--graphs-per-server", type=int, default=40)
    parser.add_argument("--requests", type=int, default=9, help="requests for each graph")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: list[str] = []
    done = 0
    while done < options.graphs:
        n_graphs = min(options.graphs_per_server, options.graphs - done)
        differing, n_steps, n_answered, n_failed = prove(options.seed + done, n_graphs, options.requests)
        found += differing
        done += n_graphs
        print(
            f"{done} graphs: {n_steps} steps in the last {n_graphs}, {n_answered} requests answered and {n_failed} "
            f"failed alike, {len(differing)} differences",
            flush=True,
        )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
