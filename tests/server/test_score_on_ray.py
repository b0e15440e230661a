"""`dualpath score --runner ray` on two nodes in one host: every row once, whatever is killed."""

import csv
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from random_texts import random_texts

from balanced import until
from dualpath.scale import job
from ray_cluster import cluster

DUALPATH = [sys.executable, "-m", "dualpath"]
WEIGHTS = ("0.5", "", "0", "1")
DEFAULT_WEIGHT = 0.7
PARTITION_ROWS = 4

# Ray's own, when its processes are killed and its sockets closed, and when it sets its own options.
IGNORED = ("ResourceWarning", "DeprecationWarning", "pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in IGNORED]


@pytest.fixture(scope="module")
def nodes():
    with cluster(2) as it:
        yield it


@pytest.fixture(scope="module")
def rows(reference):
    """Excerpts, their weights as a table has them, and the scores that they must get, by id."""
    texts = [text.decode(errors="replace").replace("\0", "") for text in random_texts(46, seed=17)]
    texts = [text for text in texts if any(char.isalpha() and char.isascii() for char in text)][:40]
    weights = [WEIGHTS[i % len(WEIGHTS)] for i in range(len(texts))]
    floats = np.array([float(weight or DEFAULT_WEIGHT) for weight in weights], np.float32)
    scores = reference.score([text.encode() for text in texts], floats)
    return {str(i): it for i, it in enumerate(zip(texts, weights, scores.tolist(), strict=True))}


@pytest.fixture
def source(rows, tmp_path):
    """The rows in a CSV, and one that cannot be scored."""
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "excerpt", "bert_weight"])
        writer.writerow(["bad", "...", ""])
        writer.writerows([key, text, weight] for key, (text, weight, _) in rows.items())
    return path


def assert_all_scored(output, rows, tolerance):
    """Every row once: in the scores, or with a reason."""
    scores = parquet.read_table(output / "scores").to_pylist()
    assert sorted(it["id"] for it in scores) == sorted(rows)
    assert all(abs(it["score"] - rows[it["id"]][2]) <= tolerance for it in scores)
    assert {it["id"]: it["excerpt"] for it in scores} == {key: text for key, (text, _, _) in rows.items()}
    [rejected] = parquet.read_table(output / "rejected").to_pylist()
    assert rejected["id"] == "bad"
    assert rejected["reason"].endswith("expected text with at least one word, got '...'. Leave the row out.")


def test_the_command_goes_on_after_it_was_killed(nodes, server, rows, source, tmp_path, tolerance):
    ray, _ = nodes
    output = tmp_path / "out"
    command = [*DUALPATH, "score", "--runner", "ray", "--address", ray.address, "--file", source, "--output", output]
    command += ["--url", server.grpc_url, "--url", "127.0.0.1:9", "--partition-rows", PARTITION_ROWS, "--json"]
    command = list(map(str, command))
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        scores = output / "scores"
        while not (scores.is_dir() and list(scores.glob("*.parquet"))):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        process.kill()
    first = {path: path.stat().st_mtime_ns for path in scores.glob("*.parquet")}
    assert len(first) < 11
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    assert done.returncode == (1 if said["n_rejected"] else 0), done.stderr
    assert (said["n_partitions"], said["n_done"]) == (11, 11)
    assert said["n_scored"] + said["n_rejected"] <= 41 - len(first)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert_all_scored(output, rows, tolerance)


def servers_on(repository):
    """The process ids of Triton servers on this machine that serve a repository."""
    wanted = f"--model-repository={repository}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if arguments[0].endswith(b"tritonserver") and wanted in arguments:
                found.add(int(path.parent.name))
    return found


def test_a_node_is_killed_and_the_other_scores_its_rows(nodes, rows, source, tmp_path, tolerance, model_repository):
    ray, [_, second] = nodes
    seen, before = [], servers_on(model_repository)

    def kill(progress):
        seen.append(progress.n_done)
        if progress.n_done == 2:
            ray.remove_node(second, allow_graceful=False)

    done = job.run_job(
        str(source),
        str(tmp_path / "out"),
        address=ray.address,
        model_repository=model_repository,
        partition_rows=PARTITION_ROWS,
        on_progress=kill,
    )
    assert (done.n_partitions, done.n_done) == (11, 11)
    assert (done.n_scored, done.n_rejected) == (40, 1)
    assert seen == list(range(12))
    assert_all_scored(tmp_path / "out", rows, tolerance)
    assert not list(Path(tmp_path / "out" / "scores").glob(".*"))
    until(lambda: not servers_on(model_repository) - before, "the servers of both nodes to end")
