"""`dualpath compare` on a pipeline of somebody else's, and on what goes wrong in it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dualpath.serving.server import TritonServer
from paths import ROOT

PIPELINE = ROOT / "tests" / "pipelines" / "two_heads"
OUTPUTS = ["EMB", "CLASS", "PROBS", "HALF", "LABEL"]
FAULTS = {
    "right": "",
    "again": "",
    "reversed": "reversed",
    "one_row": "one row",
    "half_a_place": "half a place",
    "class_off": "class off by one",
    "no_label": "no label",
    "stream": "stream",
    "stream_again": "stream",
    "stream_short": "stream, one short",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    repository = tmp_path_factory.mktemp("foreign") / "model_repository"
    config = (PIPELINE / "config.pbtxt").read_text()
    for name, fault in FAULTS.items():
        (repository / name / "1").mkdir(parents=True)
        decoupled = "model_transaction_policy { decoupled: True }\n" * fault.startswith("stream")
        text = config.replace("NAME", name).replace("FAULT", fault)
        (repository / name / "config.pbtxt").write_text(text + decoupled)
        (repository / name / "1" / "model.py").write_text((PIPELINE / "model.py").read_text())
    with TritonServer(repository, http_port=0, grpc_port=0, metrics_port=0, server="embedded") as server:
        yield server.grpc_url


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Twelve rows, every second with a GAIN."""
    rng = np.random.default_rng(0)
    data = [
        {
            "IMAGE": rng.random((3, 8, 8)).round(3).tolist(),
            "MASK": rng.integers(0, 256, 64).tolist(),
            **({"GAIN": [1.5 + number / 10]} if number % 2 else {}),
        }
        for number in range(12)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps({"data": data}))
    return path


@pytest.fixture
def compare(url, rows):
    """compare(B, *arguments) -> exit code and result, of `right` against B."""

    def compare(b, *arguments, a="right"):
        options = [
            "--url",
            url,
            "--input",
            rows,
            "--batch",
            "1,4",
            "--concurrency",
            "1,4",
            "--duration",
            "0.5",
            "--json",
        ]
        command = [sys.executable, "-m", "dualpath", "compare", a, b, *options, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1, 3), done.stderr
        return done.returncode, json.loads(done.stdout)

    return compare


def beyond(result):
    return {parity["output"]: [*parity["beyond"]] for parity in result["parity"] if parity["beyond"]}


def test_a_pipeline_agrees_with_itself_with_an_optional_input_in_every_second_row(compare):
    code, result = compare("again")
    assert code == 0, result["verdict"]
    assert [(it["output"], it["n_rows"], it["n_equal"]) for it in result["parity"]] == [
        (name, 12, 12) for name in OUTPUTS
    ]
    assert "EMB, CLASS, PROBS, HALF, LABEL: equal to the last bit in 12 rows." in result["verdict"]
    assert result["environment"]["answers under load"].startswith("all ")


def test_rows_in_reverse_order_are_caught_in_batches_only(compare):
    code, result = compare("reversed")
    assert code == 1
    assert {*beyond(result)} == {*OUTPUTS}
    assert all("alone" not in companies for companies in beyond(result).values())
    assert "EMB: alone equal, in a batch of 4, " in result["verdict"]
    places = [row["place"] for parity in result["parity"] for row in parity["worst"]]
    assert any("; it is the answer to " in place and ", at position " in place for place in places)


def test_one_row_for_four_is_caught(compare):
    code, result = compare("one_row")
    assert code == 1
    worst = result["parity"][1]["worst"][0]
    assert (worst["baseline"], worst["other"]) == ("shape [1] a row", "shape [1, 1] for 4 rows")


def test_a_fault_of_batches_over_eight_needs_such_a_batch(compare):
    assert compare("class_off")[0] == 0
    code, result = compare("class_off", "--batch", "16", "--atol", "1")
    assert (code, {*beyond(result)}) == (1, {"CLASS"})  # a class is no float


def test_a_float16_may_be_off_in_its_last_place_and_what_is_left_out_may_be_ignored(compare):
    assert compare("half_a_place")[0] == 0
    assert {*beyond(compare("half_a_place", "--atol", "HALF=1e-3")[1])} == {"HALF"}
    code, result = compare("no_label")
    assert (code, {*beyond(result)}) == (1, {"LABEL"})
    assert compare("no_label", "--ignore", "LABEL")[0] == 0


def test_rows_are_made_up_and_those_that_may_differ_are_counted_apart(url, compare):
    command = [sys.executable, "-m", "dualpath", "compare", "right", "half_a_place", "--url", url, "--random", "9"]
    quick = ["--batch", "3", "--concurrency", "1", "--duration", "0.3", "--json", "--atol", "HALF=0"]
    done = subprocess.run([*command, *quick], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    done = subprocess.run(
        [*command, *quick, "--expect-differences", "GAIN>-99"], capture_output=True, text=True, timeout=120
    )
    result = json.loads(done.stdout)
    assert result["n_excused"] > 0
    assert 0 < result["parity"][0]["n_rows"] < 9


def test_a_gate_is_decided_on_the_interval(compare):
    code, result = compare("again", "--gate", "--max-p50-ratio", "20", "--min-throughput-ratio", "0.01")
    outcomes = {it["outcome"] for it in result["gate"]}
    assert outcomes <= {"passed", "undecided"}  # a busy machine may be too noisy to decide
    assert code == (3 if "undecided" in outcomes else 0)
    code, result = compare("again", "--gate", "--min-throughput-ratio", "50")
    assert (code, {it["outcome"] for it in result["gate"]}) in ((1, {"failed"}), (3, {"undecided"}))


def test_all_responses_of_a_decoupled_model_are_compared_in_their_order(compare):
    code, result = compare("stream_again", a="stream")
    assert code == 0, result["verdict"]
    assert [it["n_equal"] for it in result["parity"]] == [12] * 5
    code, result = compare("stream_short", a="stream")
    assert (code, {*beyond(result)}) == (1, {*OUTPUTS})
    worst = result["parity"][1]["worst"][0]
    assert (worst["baseline"], worst["other"]) == ("shape [3, 1]", "shape [2, 1]")
