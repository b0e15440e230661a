"""Prove what two servers behind a balancer and two nodes of Ray do: `python tests/prove_scale.py [WORD...]`.

Words choose pieces: throughput, kill, release, nodes, node-killed, stopped. Each takes at most five minutes on two idle
cores. Servers and nodes have a core each; the client and the balancer have what is left of both.
"""

import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from balanced import DUALPATH, Balancer, Clients, Served, serving, until
from dualpath.readability.contract import TOLERANCES
from dualpath.readability.features import STOP_WORDS
from dualpath.readability.reference import Reference
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from made_up_releases import TEXT, WEIGHTS, made_up, publish, scores_of
from paths import REPOSITORY

N_CLIENTS = 32
N_ROWS = int(os.environ.get("ROWS", "2000"))
PARTITION_ROWS = max(5, N_ROWS // 20)
TURN_S, WARM_UP_S, N_TURNS = 15.0, 3.0, 3
WORDS = (*sorted(STOP_WORDS), "garden", "river", "mountain", "notwithstanding", "lessee", "children", "evening")
DEFAULT_WEIGHT = 0.7


def excerpts(n, n_words=180):
    """Made-up excerpts of about 200 tokens, as long as those of CLEAR."""
    rng = random.Random(0)
    return [f"{' '.join(rng.choices(WORDS, k=n_words))}." for _ in range(n)]


def tolerance():
    return TOLERANCES[Facts.of(newest(REPOSITORY / "bert-large")).precision]


def two_servers(folder, repositories=(REPOSITORY, REPOSITORY)):
    cores = sorted(os.sched_getaffinity(0))
    return [
        Served(repository, folder / f"{i}.log", cores={cores[i % len(cores)]})
        for i, repository in enumerate(repositories)
    ]


def memory(server):
    """Return the memory of a server and all that it started, in GiB, what they share counted once."""
    done = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    family = [server.process.pid]
    for parent in family:
        family.extend(pid for pid, of in parents if of == parent)
    rollups = [Path(f"/proc/{pid}/smaps_rollup") for pid in family]
    texts = [it.read_text() for it in rollups if it.exists()]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("Pss:")) / 2**20


def cpu_s(pid):
    """Return the seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def throughput(folder):
    requests = [([text], [0.5]) for text in excerpts(64)]
    one, two = two_servers(folder)
    balancer = Balancer(folder, one, two)
    rates = {one.url: [], balancer.url: []}
    n_balanced = 0
    with serving(one, two), balancer.running() as process:
        for turn in range(N_TURNS):
            for url in list(rates)[:: 1 if turn % 2 else -1]:  # who is first alternates
                with Clients(url, requests, N_CLIENTS) as clients:
                    time.sleep(TURN_S)
                    until_ = time.monotonic()
                counted = [at for _, _, at in clients.answers if until_ - TURN_S + WARM_UP_S < at <= until_]
                assert not clients.errors, clients.errors[:3]
                n_balanced += clients.n_sent if url == balancer.url else 0
                rates[url].append(len(counted) / (TURN_S - WARM_UP_S))
        used, of_balancer_ms = memory(one), 1000 * cpu_s(process.pid) / n_balanced
    alone, both = rates.values()
    ratios = [b / a for a, b in zip(alone, both, strict=True)]
    said = f"{median(ratios):.2f} x ({', '.join(f'{it:.2f}' for it in ratios)})"
    yield "two servers behind HAProxy, 32 clients, weight 0.5", said, ">= 1.6 x", median(ratios) >= 1.6
    yield "one server of one core", f"{median(alone):.1f} rows/s, {used:.2f} GiB", "", True
    yield "two servers of one core", f"{median(both):.1f} rows/s, {of_balancer_ms:.2f} ms of HAProxy a call", "", True


def kill(folder):
    texts = excerpts(16)
    requests = [([text], [weight]) for text in texts for weight in (0.5, 0.0, 0.0, 0.0)]
    reference = Reference(REPOSITORY)
    right = [reference.score([t.encode() for t in it], np.array(w, np.float32)).tolist() for it, w in requests]
    one, two = two_servers(folder)
    balancer = Balancer(folder, one, two)
    with serving(one, two), balancer.running(), Clients(balancer.url, requests, N_CLIENTS) as clients:
        for name, server in (("one", one), ("two", two), ("one", one)):
            time.sleep(5)
            until(lambda: balancer.status("one") == balancer.status("two") == "UP", "both servers")
            server.kill_triton()
            until(lambda name=name: balancer.status(name).startswith("DOWN"), "the balancer to see it")
            until(lambda name=name: balancer.status(name) == "UP", "the watchdog")
        time.sleep(5)
    wrong = sum(abs(scores[0] - right[number][0]) > tolerance() for number, scores, _ in clients.answers)
    unanswered = clients.n_sent - len(clients.answers) - len(clients.errors)
    share = len(clients.errors) / clients.n_sent
    said = f"{clients.n_sent} requests: {wrong} wrong, {unanswered} unanswered, {len(clients.errors)} errors"
    yield "kill -9 of one of two, three times", said, "0, 0, <= 0.1 %", not wrong and not unanswered and share <= 0.001


def release(folder):
    one, two = two_servers(folder, [made_up(folder / name, "auto") for name in ("one", "two")])
    balancer = Balancer(folder, one, two)
    releases = range(1, 5)
    request = [TEXT] * len(WEIGHTS), WEIGHTS
    with serving(one, two), balancer.running(), Clients(balancer.url, [request], N_CLIENTS) as clients:
        for number in releases[1:]:
            for name, server in (("one", one), ("two", two)):
                publish(server.repository, number)
                balancer.drain(name)
                if name == "one":  # a new process
                    server.stop()
                    server.start()
                    server.await_ready()
                else:  # the same process
                    reload = [*DUALPATH, "reload", "--url", server.url, "--model-repository", str(server.repository)]
                    subprocess.run(reload, check=True, capture_output=True)
                balancer.bring_back(name)
                time.sleep(2)
    seen = {scores for _, scores, _ in clients.answers}
    mixed = sum(scores not in {scores_of(number) for number in releases} for _, scores, _ in clients.answers)
    said = f"{clients.n_sent} requests, {len(seen)} releases: {len(clients.errors)} errors, {mixed} mixed"
    good = not clients.errors and not mixed and seen == {scores_of(number) for number in releases}
    yield "three changes of release over both", said, "0, 0", good


class Rows:
    """The rows of the Ray pieces, in a CSV, and their scores by `score --local`, kept for the next piece."""

    def __init__(self):
        folder = Path(tempfile.gettempdir()) / f"dualpath-prove-scale-{N_ROWS}"
        folder.mkdir(exist_ok=True)
        self.path, scored = folder / "in.csv", folder / "local.csv"
        if not scored.exists():
            with self.path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "excerpt"])
                writer.writerows(enumerate(excerpts(N_ROWS)))
            part = scored.with_suffix(".part")
            local = ["score", "--local", "--file", str(self.path), "--output", str(part), "--resume"]
            local += ["--model-repository", str(REPOSITORY), "--bert-weight", str(DEFAULT_WEIGHT)]
            subprocess.run([*DUALPATH, *local], check=True)
            part.rename(scored)
        with scored.open(newline="") as file:
            self.scores = {row["id"]: float(row["score"]) for row in csv.DictReader(file)}

    def compare(self, output):
        """Return how many rows are missing or there twice, and the largest difference."""
        from pyarrow import parquet

        found = parquet.read_table(output / "scores").to_pylist()
        ids = [row["id"] for row in found]
        n_wrong = len(set(self.scores) ^ set(ids)) + len(ids) - len(set(ids))
        return n_wrong, max(abs(row["score"] - self.scores[row["id"]]) for row in found)


def score(n_nodes, output, rows, on_progress=lambda progress, ray, nodes: None):
    """Score the rows on a cluster; return when each partition was done, seconds from the start of the job."""
    from dualpath.scale import job
    from ray_cluster import cluster

    done = []
    with cluster(n_nodes) as (ray, nodes):
        began = time.monotonic()

        def note(progress):
            done.append(time.monotonic() - began)
            on_progress(progress, ray, nodes)

        job.run_job(
            str(rows.path),
            str(output),
            address=ray.address,
            model_repository=REPOSITORY,
            weight=DEFAULT_WEIGHT,
            partition_rows=PARTITION_ROWS,
            on_progress=note,
        )
    return done[1:]


def nodes(folder):
    rows = Rows()
    one, two = (score(n, folder / str(n), rows) for n in (1, 2))
    for n in (1, 2):
        n_wrong, difference = rows.compare(folder / str(n))
        good = not n_wrong and difference <= tolerance()
        said = f"{n_wrong} missing or twice, differences up to {difference:.1e}"
        yield f"{N_ROWS} rows by {n} node(s) against score --local", said, f"0, {tolerance():g}", good
    ratio = one[-1] / two[-1]
    yield (
        "two nodes of one core, the whole job",
        f"{ratio:.2f} x ({one[-1]:.0f} s, {two[-1]:.0f} s)",
        ">= 1.5 x",
        (ratio >= 1.5),
    )
    first_one, first_two = one[0], two[1]  # once each server has done a partition
    rates = (N_ROWS - PARTITION_ROWS) / (one[-1] - first_one), (N_ROWS - 2 * PARTITION_ROWS) / (two[-1] - first_two)
    yield "the same without the start", f"{rates[1] / rates[0]:.2f} x ({rates[0]:.1f}, {rates[1]:.1f} rows/s)", "", True


def node_killed(folder):
    rows = Rows()
    killed = []

    def kill_one(progress, ray, its_nodes):
        if progress.n_done == progress.n_partitions // 2 and not killed:
            ray.remove_node(its_nodes[1], allow_graceful=False)
            killed.append(time.monotonic())

    at = score(2, folder / "out", rows, kill_one)
    n_wrong, difference = rows.compare(folder / "out")
    half = len(at) // 2
    each = (at[half - 1] - at[1]) / (half - 2) * 2  # what a node takes for a partition
    lost = at[-1] - at[half - 1] - each * (len(at) - half)
    said = f"{n_wrong} missing or twice, {difference:.1e}; {lost:.1f} s lost, a partition takes {each:.1f} s"
    # Two partitions are on a node at a time: one is scored, one waits.
    yield "a node killed at half", said, "0; <= 2 partitions", not n_wrong and lost <= 2 * each + 2


def stopped(folder):
    rows = Rows()
    output, n_stops = folder / "out", 0
    command = [*DUALPATH, "score", "--runner", "ray", "--file", str(rows.path), "--output", str(output)]
    command += ["--model-repository", str(REPOSITORY), "--partition-rows", str(PARTITION_ROWS), "--resume"]
    began = time.monotonic()
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            # Later and later, so that it gets somewhere.
            process.wait(25 + 12 * n_stops)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            n_stops += 1
        else:
            break
        assert time.monotonic() - began < 600
    n_wrong, difference = rows.compare(output)
    said = f"{n_wrong} missing or twice, {difference:.1e}, after {n_stops} stops"
    yield "a job killed and started again", said, "0", not n_wrong and n_stops > 0


PIECES = {
    "throughput": throughput,
    "kill": kill,
    "release": release,
    "nodes": nodes,
    "node-killed": node_killed,
    "stopped": stopped,
}


def main(words):
    table = Table("proof", "found", "bound", "")
    good = True
    for name in words or PIECES:
        with tempfile.TemporaryDirectory(prefix="dualpath-prove-") as folder:
            for what, found, bound, holds in PIECES[name](Path(folder)):
                good = good and holds
                table.add_row(what, found, bound, "" if holds else "MISSED")
                print(f"{what}: {found}", flush=True)
    Console(width=150).print(table)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
