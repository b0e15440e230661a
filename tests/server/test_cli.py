"""The commands that talk to a server, and what they say when it goes away."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from starting import start

from dualpath.readability.contract import MODELS, SCORERS
from dualpath.readability.samples import SAMPLES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import connect
from paths import REPOSITORY

WIDE = {**os.environ, "COLUMNS": "200"}
DUALPATH = [sys.executable, "-c", "from dualpath.cli import main; main()"]


def dualpath(*arguments, **options):
    return subprocess.run(
        [*DUALPATH, *map(str, arguments)], capture_output=True, text=True, env=WIDE, timeout=120, **options
    )


@pytest.fixture(scope="module")
def precision(model_repository):
    return Facts.of(newest(model_repository / "bert-large")).precision


def test_models_shows_each_model_as_json(server, model_repository, precision):
    done = dualpath("models", "--json", "--url", server.grpc_url, "--model-repository", model_repository)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["releases"] == [{"release": 1, "served": True}]
    shown = {row.pop("model"): row for row in said["models"]}
    assert shown.keys() == {model.name for model in MODELS}
    for model in MODELS:
        assert (shown[model.name]["state"], shown[model.name]["version"]) == ("ready", "1")
        assert shown[model.name]["backend"] == model.backend
    assert shown["bert-large"]["device"].endswith(" x CPU")
    assert shown["bert-large"]["artifact"].startswith("1/model.pt (")
    assert precision in shown["bert-large"]["artifact"]
    assert shown["cuml"]["artifact"].startswith("1/checkpoint.tl (")
    assert shown["ensemble_all"]["device"] == shown["ensemble_all"]["artifact"] == ""


def test_models_shows_a_table(server, model_repository, precision):
    done = dualpath("models", "--url", server.grpc_url, "--model-repository", model_repository)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    table = {name: cells for name, *cells in lines}
    assert table.keys() == {model.name for model in MODELS}
    assert table["bert-large"][1:3] == ["ready", "pytorch (stand-in)"]
    assert precision in table["bert-large"][-1]


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A CSV of more rows than one request takes, with a weight in every second row."""
    path = tmp_path_factory.mktemp("sheet") / "in.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "excerpt", "bert_weight"])
        for number in range(40):
            text = [*SAMPLES.values()][number % len(SAMPLES)][: 80 + number]
            writer.writerow([number, text, (0, "", 1, "")[number % 4]])
    return path


@pytest.fixture(scope="module")
def local_scores(model_repository, sheet):
    done = dualpath("score", "--local", "--file", sheet, "--bert-weight", 0.4, "--model-repository", model_repository)
    assert (done.returncode, done.stderr) == (0, "")
    return scores(done.stdout)


def scores(text):
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(len(rows)))
    return np.array([float(row["score"]) for row in rows])


@pytest.mark.parametrize("model", [model.name for model in SCORERS])
def test_served_scores_equal_local_ones(server, sheet, local_scores, tolerance, model):
    done = dualpath("score", "--url", server.grpc_url, "--model", model, "--file", sheet, "--bert-weight", 0.4)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(local_scores) == 40
    assert np.ptp(local_scores) > 1
    np.testing.assert_allclose(scores(done.stdout), local_scores, rtol=0, atol=tolerance + 1e-6)  # six decimals


def test_an_unknown_model_is_refused_by_name(server):
    done = dualpath("score", "--url", server.grpc_url, "--model", "bert-large", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'orchestrator', 'ensemble_all'" in " ".join(done.stderr.replace("│", " ").split())


def test_the_http_port_is_not_the_grpc_port(server):
    done = dualpath("score", "--url", server.http_url, "hi")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"dualpath: --url: expected a Triton server at {server.http_url} (gRPC), got: ")


STAND_IN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        excerpts = [pb_utils.get_input_tensor_by_name(request, "excerpt").as_numpy() for request in requests]
        lengths = [np.char.str_len(rows.astype(bytes)).astype(np.float32) for rows in excerpts]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", n)]) for n in lengths]
"""


@pytest.fixture
def small_server(tmp_path):
    """A server whose only model is an `orchestrator` that counts bytes."""
    model = tmp_path / "model_repository" / "orchestrator"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(STAND_IN)
    shutil.copy(REPOSITORY / "orchestrator" / "config.pbtxt", model)
    with start(model.parent) as it:
        yield it


def test_a_model_that_is_not_ready_is_named(small_server):
    url = small_server.grpc_url
    done = dualpath("score", "--url", url, "--model", "ensemble_all", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dualpath: ensemble_all: expected it to be ready at {url}, got another state. See `dualpath models`.\n"
    )

    client = connect(url)
    client.unload_model("orchestrator")
    client.close()
    rows = json.loads(dualpath("models", "--json", "--url", url).stdout)["models"]
    [row] = [row for row in rows if row["model"] == "orchestrator"]
    assert row["state"] in ("unloading", "unavailable: unloaded")  # the unload call does not wait for the end
    assert dualpath("score", "--url", url, "hi").returncode == 2


def test_a_server_that_dies_midway_leaves_the_rows_so_far(small_server):
    batch = "".join(f"{'x' * n}\n" for n in range(1, 33))
    with subprocess.Popen(
        [*DUALPATH, "score", "--file", "-", "--retry-for", "0", "--url", small_server.grpc_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write(batch)
        process.stdin.flush()
        first = [process.stdout.readline() for _ in range(32)]
        small_server.stop()
        rest, complaint = process.communicate(batch, timeout=60)
    assert first == [f"{n:.4f}\t{'x' * n}\n" for n in range(1, 33)]
    assert (process.returncode, rest) == (1, "")
    [line] = complaint.splitlines()
    assert line.startswith("dualpath: orchestrator: expected scores, got: ")
    assert line.endswith(" The rows above are complete.")
