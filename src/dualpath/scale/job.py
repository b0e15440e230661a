"""Run the scoring of a data set on a Ray cluster."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from dualpath.errors import UserError
from dualpath.extras import needs

IN_FLIGHT = 2
"""Requests under way at each server: one waits while the other is computed."""


class JobFailed(Exception):
    """A partition could not be scored. Those before it are done; the message is the node's."""


@dataclass
class JobProgress:
    """How far a job is. Partitions that were done before count, and their rows without a score; their scores do not."""

    n_partitions: int
    n_done: int
    n_scored: int = 0
    n_rejected: int = 0


def run_job(
    source: str,
    output: str,
    *,
    address: str | None = None,
    urls: Sequence[str] = (),
    model_repository: Path = Path("model_repository"),
    model: str = "orchestrator",
    weight: float = 0.7,
    partition_rows: int = 1024,
    retry_for_s: float = 60,
    resume: bool = False,
    on_progress: Callable[[JobProgress], None] = lambda progress: None,
) -> JobProgress:
    """Score a data set, partition by partition, and return what was done.

    Args:
        source: a file or a folder of Parquet, CSV or JSON lines with a column `excerpt`, and `bert_weight` if rows
            have weights of their own; a path or an fsspec address that every node can read.
        output: a folder that every node can write to; gets `scores/part-*.parquet` and `rejected/part-*.parquet`.
        address: of the Ray cluster; without one, that of RAY_ADDRESS or of `ray start` on this machine, or else Ray
            starts on this machine alone.
        urls: gRPC addresses of running servers; without one, each node starts a server.
        model_repository: what such a server serves, on every node.
        weight: BERT_WEIGHT of rows that have none.
        retry_for_s: how long to try a request again that no server takes.
        resume: go on with the job whose output is there.
    Raises:
        UserError: the input, the output or the cluster is not there.
        JobFailed: a partition could not be scored.
    """
    ray = _ray()
    from dualpath.scale import dataset
    from dualpath.scale.output import Output
    from dualpath.scale.scorer import PartitionScorer

    source, output = dataset.absolute(source), dataset.absolute(output)
    data = dataset.plan(source, partition_rows)
    job = {
        "source": source,
        "sizes": data.sizes,
        "model": model,
        "bert_weight": weight,
        "partition_rows": partition_rows,
    }
    folder = Output(output)
    with ExitStack() as stack:
        stack.enter_context(folder.alone())
        todo = folder.begin(job, data.partitions, resume)
        done = {*data.partitions} - {*todo}
        progress = JobProgress(len(data.partitions), len(done), n_rejected=folder.n_rejected(done))
        on_progress(progress)
        if not todo:
            return progress
        stack.enter_context(_cluster(ray, address))
        n_cpus, n_scorers = _scorers(ray.nodes(), len(urls), len(todo))
        in_flight = ceil(IN_FLIGHT * max(1, len(urls)) / (n_scorers if urls else 1))
        repository = model_repository.absolute()
        results = ray.data.from_items([asdict(it) for it in todo], override_num_blocks=len(todo)).map(
            PartitionScorer,
            fn_constructor_args=(output, data.schema, urls, repository, model, weight, retry_for_s, in_flight),
            num_cpus=n_cpus,
            # All at once; if a node is lost, the others go on.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=n_scorers, initial_size=n_scorers),
        )
        for row in results.iter_rows():
            if row["error"]:
                raise JobFailed(row["error"])
            progress.n_done += 1
            progress.n_scored += row["n_scored"]
            progress.n_rejected += row["n_rejected"]
            on_progress(progress)
    return progress


def _scorers(nodes: Sequence[dict[str, Any]], n_urls: int, n_partitions: int) -> tuple[float, int]:
    """Return how many cores a scorer takes, and how many there are at most.

    A server of the job's own gets as many cores as the smallest node has: one on each node if they are equal.
    """
    cores = [node["Resources"]["CPU"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not cores:
        raise UserError("--address: expected nodes with a core each, got none. Add a node to the cluster.")
    each = 1.0 if n_urls else min(cores)
    wanted = min(len(cores), n_urls) if n_urls else sum(int(it // each) for it in cores)
    return each, max(1, min(wanted, n_partitions))


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster, or the one that this process has joined already, and leave what was joined."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"--address: expected a Ray cluster at {address}, got: {reason}. Start one with `ray start --head`."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports over the network
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its core writes to stderr what is no fault
    with needs("scale"):
        import ray
        import ray.data
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
