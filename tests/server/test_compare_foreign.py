"""`dualpath compare` on pipelines of somebody else's, and on what goes wrong in them."""

import json
import time
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from starting import start

import doc_blocks
from dualpath.compare import compare as compare_models
from dualpath.compare.gate import Condition
from pipeline_models import write

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
COUNTERS = {"counter": "false", "counter_again": "false", "counter_leaks": "true"}
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [ {
  model_name: "counter_again" model_version: -1
  input_map { key: "X" value: "X" } output_map { key: "SUM" value: "SUM" }
} ] }
"""
LOGGED_SOON = '{ key: "log_every_s" value: { string_value: "0.1" } }'
ATOL_HALF = {"HALF": 1e-3}


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    repository = tmp_path_factory.mktemp("foreign") / "model_repository"
    for name, fault in FAULTS.items():
        decoupled = "model_transaction_policy { decoupled: True }\n" * name.startswith("stream")
        write(repository, name, "two_heads", decoupled, FAULT=fault)
    for name, leaks in COUNTERS.items():
        write(repository, name, "counter", LEAKS=leaks)
    for name in ("scene_a", "scene_b"):
        write(repository, name, "scene")
    doc_blocks.write_example(repository, doc_blocks.SHADOW)
    shadow = repository / "shadow" / "config.pbtxt"
    shadow.write_text(shadow.read_text().replace("parameters [", f"parameters [ {LOGGED_SOON},"))
    (repository / "counter_ensemble" / "1").mkdir(parents=True)
    (repository / "counter_ensemble" / "config.pbtxt").write_text(ENSEMBLE)
    with start(repository) as server:
        yield server


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
def compare(triton, rows):
    """compare(B, **options) -> result, of `right` against B."""

    def compare(b, a="right", **options):
        defaults = {"url": triton.grpc_url, "batch": [4], "concurrency": [4], "duration_s": 0.05}
        if "n_random" not in options:
            defaults["input_file"] = rows
        return compare_models(a, b, **(defaults | options))

    return compare


def beyond(result):
    return {parity.output: [*parity.beyond] for parity in result.parity if parity.beyond}


def test_a_pipeline_agrees_with_itself_with_an_optional_input_in_every_second_row(compare):
    result = compare("again", batch=[1, 4])
    assert result.exit_code == 0, result.verdict
    assert [(it.output, it.n_rows, it.n_equal) for it in result.parity] == [(name, 12, 12) for name in OUTPUTS]
    assert "EMB, CLASS, PROBS, HALF, LABEL: equal to the last bit in 12 rows." in result.verdict
    assert result.environment["answers under load"].startswith("all ")
    assert "12 rows alone, " in result.environment["answers"]


def test_rows_in_reverse_order_are_caught_in_batches_only(compare):
    result = compare("reversed")
    assert result.exit_code == 1
    assert {*beyond(result)} == {*OUTPUTS}
    assert all("alone" not in ways for ways in beyond(result).values())
    assert "EMB, CLASS, PROBS, HALF, LABEL: alone equal, in a batch of 4, " in result.verdict
    places = [row.place for parity in result.parity for row in parity.worst]
    assert any("; it is the answer to " in place and ", at position " in place for place in places)


def test_one_row_for_four_is_caught(compare):
    result = compare("one_row")
    assert result.exit_code == 1
    worst = result.parity[1].worst[0]
    assert (worst.baseline, worst.other) == ("shape [1] a row", "shape [1, 1] for 4 rows")


def test_a_fault_of_batches_over_eight_needs_such_a_batch(compare):
    assert compare("class_off").exit_code == 0
    result = compare("class_off", batch=[16], atol=1)
    assert (result.exit_code, {*beyond(result)}) == (1, {"CLASS"})  # a class is no float


def test_a_float16_may_be_off_in_its_last_place_and_what_is_left_out_may_be_ignored(compare):
    assert compare("half_a_place").exit_code == 0
    assert {*beyond(compare("half_a_place", atol=ATOL_HALF))} == {"HALF"}
    result = compare("no_label")
    assert (result.exit_code, {*beyond(result)}) == (1, {"LABEL"})
    assert compare("no_label", ignore=["LABEL"]).exit_code == 0


def test_rows_are_made_up_and_those_that_may_differ_are_counted_apart(compare):
    quick = {"n_random": 9, "batch": [3], "concurrency": [1], "atol": {"HALF": 0}}
    assert compare("half_a_place", **quick).exit_code == 1
    result = compare("half_a_place", **quick, expect_differences=["GAIN>-99"])
    assert result.n_excused > 0
    assert 0 < result.parity[0].n_rows < 9


def test_a_gate_is_decided_on_the_interval(compare):
    result = compare("again", conditions=[Condition("p50", 20), Condition("throughput", 0.01)])
    outcomes = {it.outcome for it in result.gate}
    assert outcomes <= {"passed", "undecided"}  # a busy machine may be too noisy to decide
    assert result.exit_code == (3 if "undecided" in outcomes else 0)
    result = compare("again", conditions=[Condition("throughput", 50)])
    assert (result.exit_code, {it.outcome for it in result.gate}) in ((1, {"failed"}), (3, {"undecided"}))


def test_all_responses_of_a_decoupled_model_are_compared_in_their_order(compare):
    result = compare("stream_again", a="stream")
    assert result.exit_code == 0, result.verdict
    assert [it.n_equal for it in result.parity] == [12] * 5
    result = compare("stream_short", a="stream")
    assert (result.exit_code, {*beyond(result)}) == (1, {*OUTPUTS})
    worst = result.parity[1].worst[0]
    assert (worst.baseline, worst.other) == ("shape [3, 1]", "shape [2, 1]")


@pytest.mark.parametrize("b", ["counter_again", "counter_ensemble"])
def test_models_that_keep_state_are_asked_in_sequences(compare, b):
    result = compare(b, a="counter", n_random=40, batch=None)
    assert result.exit_code == 0, result.verdict
    assert [(it.output, it.n_rows, it.n_equal) for it in result.parity] == [("SUM", 40, 40)]
    [cell] = result.cells
    assert (cell.load.batch, cell.load.concurrency) == (1, 4)
    assert all(it.n_requests > 0 and not it.n_errors for it in cell.measured.values())
    assert "among 4 sequences at once" in result.environment["answers"]
    assert any(note.startswith("Asked in sequences") for note in result.notes)


def test_a_sum_that_sequences_share_is_right_in_a_sequence_alone(compare, tmp_path):
    steps = [[{"X": [number, 10 * step]} for step in range(4)] for number in range(5)]
    expected = [[{"SUM": [number * (step + 1), 5 * step * (step + 1)]} for step in range(4)] for number in range(5)]
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"data": steps, "validation_data": expected}))
    assert compare("counter_again", a="counter", input_file=path, batch=None).exit_code == 0
    result = compare("counter_leaks", a="counter", input_file=path, batch=None)
    [ways] = beyond(result).values()
    assert (result.exit_code, ways) == (1, ["among 4 sequences at once", "under load"])
    assert "SUM: alone equal, among 4 sequences at once and under load WRONG" in result.verdict


def test_http_finds_what_grpc_finds(compare, triton):
    url = f"http://{triton.http_url}"
    result = compare("again", url=url)
    assert result.exit_code == 0, result.verdict
    assert [(it.output, it.n_equal) for it in result.parity] == [(name, 12) for name in OUTPUTS]
    assert [step.model for step in result.steps] == ["right", "again"]
    result = compare("reversed", url=url)
    assert (result.exit_code, {*beyond(result)}) == (1, {*OUTPUTS})
    assert compare("counter_again", a="counter", url=url, n_random=20, batch=None).exit_code == 0


def shadow_rows(triton):
    """The rows that the challenger was asked, by outcome."""
    with urlopen(triton.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("bls_shadow_rows_total"))
    return {outcome: sum(float(n) for name, n in values.items() if f'"{outcome}"' in name) for outcome in OUTCOMES}


OUTCOMES = ("equal", "different", "failed", "left out")


def until(is_so):
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_shadow_model_answers_as_its_champion_and_tells_where_its_challenger_differs(compare, triton):
    result = compare("shadow", a="scene_a", n_random=24)
    assert result.exit_code == 0, result.verdict
    assert [(it.output, it.n_rows, it.n_equal) for it in result.parity] == [("scores", 24, 24), ("label", 24, 24)]
    images = np.stack([np.full((3, 8, 8), value, np.float32) for value in (1, -1)])
    tensor = grpcclient.InferInput("image", images.shape, "FP32")
    tensor.set_data_from_numpy(images)
    with grpcclient.InferenceServerClient(triton.grpc_url) as client:
        answer = client.infer("shadow", [tensor], request_id="r7", parameters={"share": "1"})
    assert answer.as_numpy("label").tolist() == [[b"day"], [b"night"]]
    assert answer.as_numpy("ANSWERED_BY").tolist() == [[b"scene_a"]] * 2
    until(lambda: "shadow: request r7, row 0: label [b'day'] and [b'noon']" in triton.log_path.read_text())
    until(lambda: shadow_rows(triton)["different"] > 0)
    rows = shadow_rows(triton)
    assert rows["equal"] > 0
    assert rows["failed"] == 0
