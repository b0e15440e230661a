"""`dualpath bench` as a user runs it, on the real Triton."""

import json
import subprocess
import sys

import pytest

from dualpath.compare.bench_servers import build_encoder
from dualpath.compare.setups import LONGEST_REQUEST_S
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.gpus import gpu_visible

DUALPATH = [sys.executable, "-c", "from dualpath.cli import main; main()"]
ALL_CPU, CLIENT, ALL_GPU = "all in Triton, CPU", "client + models on CPU", "all in Triton, GPU"
TEXT_ON_CPU = "all in Triton, text on CPU, models on GPU"

without_gpu = pytest.mark.skipif(gpu_visible(), reason="what is said where there is no GPU")


def bench(model_repository, *arguments):
    command = [*DUALPATH, "bench", "--json", "--duration", "0.4", "--model-repository", model_repository, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@without_gpu
def test_set_ups_agree_and_are_measured_by_batch_size(model_repository, tolerance, tmp_path):
    report = tmp_path / "report"
    result, said = bench(model_repository, "--batch", "1,4", "--report", report)
    assert not result["failed"]
    assert result["contenders"] == [ALL_CPU, CLIENT, TEXT_ON_CPU, ALL_GPU]

    [parity] = result["parity"]
    assert (parity["other"], parity["output"], parity["n_rows"]) == (CLIENT, "SCORE", 8)
    assert parity["largest"] <= parity["atol"] == tolerance

    assert [cell["load"]["batch"] for cell in result["cells"]] == [1, 4]
    for cell in result["cells"]:
        assert cell["not_measured"] == {TEXT_ON_CPU: "no GPU", ALL_GPU: "no GPU"}
        for measured in cell["measured"].values():
            assert measured["n_requests"] >= 1
            assert (measured["n_errors"], measured["n_timeouts"]) == (0, 0)
            assert 0 < measured["latencies_ms"]["50"] < LONGEST_REQUEST_S * 1e3

    # What each set-up asks of the models: all in Triton is the orchestrator's work, client + models only theirs.
    steps = {(step["contender"], step["model"]): step["n_rows"] for step in result["steps"]}
    assert {model for name, model in steps if name == CLIENT} == {"bert-large", "cuml"}
    assert {model for name, model in steps if name == ALL_CPU} == {"bert-large", "cuml", "orchestrator"}
    assert steps[CLIENT, "bert-large"] == steps[CLIENT, "cuml"]
    assert {span["contender"] for span in result["timelines"]} == {ALL_CPU}
    assert any(process["name"].startswith("bert-large") for process in result["processes"])

    assert said.endswith(f"Report: {report / 'index.html'}\n")
    page = (report / "index.html").read_text()
    assert CLIENT in page
    assert "no GPU" in page


@without_gpu
def test_another_precision_is_built_once_and_leaves_the_repository_alone(model_repository, tmp_path):
    before = Facts.of(newest(model_repository / "bert-large"))
    options = ("--batch", "1", "--precision", "bfloat16", "--model", "ensemble_all", "--work-dir", tmp_path)
    result, _ = bench(model_repository, *options)
    assert result["environment"]["precision"] == "bfloat16"
    assert {step["model"] for step in result["steps"]} >= {"preprocess", "postprocess", "ensemble_all"}
    assert result["parity"][0]["atol"] == 2e-2
    built = tmp_path / "minilm-bfloat16/bert-large/1/model.pt"
    first = built.stat().st_mtime_ns

    build_encoder(tmp_path, "minilm", "bfloat16", lambda line: None)
    assert built.stat().st_mtime_ns == first
    assert Facts.of(newest(model_repository / "bert-large")) == before
