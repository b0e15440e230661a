"""docs/bls.md: its example's own test, and the lines of each section."""

import os
import re
import subprocess
import sys
import threading

import fake_triton
import numpy as np
import pytest

import doc_blocks
from dualpath.bls import testing

LIT = np.stack([np.full((3, 8, 8), value, np.uint8) for value in (255, 0, 51)])


def embed(inputs):
    return {"embedding": inputs["image"].mean((2, 3))}


def name_scene(inputs):
    return {"label": np.where(inputs["embedding"][:, :1] > 0.5, b"day", b"night").astype(object)}


@pytest.fixture
def section(tmp_path):
    """section(name, **children) -> its model, served by the fake."""

    def serve(name, decoupled=False, gpu=None, **children):
        return testing.serve(doc_blocks.write_section(tmp_path, name, decoupled), children=children, gpu=gpu)

    return serve


def test_the_example_passes_its_own_test(tmp_path):
    doc_blocks.write_example(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_scene.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_models_graph_and_all_fit_into_25_lines():
    model = doc_blocks.blocks()["scene/1/model.py"]
    assert sum(1 for line in model.splitlines() if line.strip()) <= 25


def test_batching_merges_the_rows_that_arrive_together(section):
    with section("batching", encoder=embed) as model:
        pending = model.start_together([{"image": LIT[:2]}, {"image": LIT[2:]}])
        answers = [each.result()["scores"] for each in pending]
    np.testing.assert_array_equal(answers[0], [[1, 1], [0, 0]])
    np.testing.assert_allclose(answers[1], [[0.2, 0.2]], rtol=1e-6)
    assert [len(call.inputs[0].array()) for call in model.calls] == [3]


def test_conditions_ask_for_the_rows_of_the_mask_alone(section):
    with section("conditions", scenes=name_scene) as model:
        assert model.infer({"image": LIT})["label"].tolist() == [[b"day"], [b"dark"], [b"night"]]
        assert model.infer({"image": LIT[1:2]})["label"].tolist() == [[b"dark"]]
    assert [len(call.inputs[0].array()) for call in model.calls] == [2]


def test_deadlines_end_the_wait_for_a_child(section):
    open_ = threading.Event()

    def slow(inputs):
        open_.wait(5)
        return embed(inputs)

    with section("deadlines", encoder=slow) as model:
        with pytest.raises(
            testing.RequestFailed, match="encoder: expected an answer within the request's timeout"
        ) as e:
            model.infer({"image": LIT}, timeout_s=0.5)
        assert e.value.code == "UNAVAILABLE"
        open_.set()
        assert model.infer({"image": LIT[:1]})["scores"].tolist() == [[1, 1]]
    assert 0 < model.calls[0].timeout <= 500_000


def test_fallback_answers_without_the_child_and_retries_only_what_is_unavailable(section):
    calls = []

    def failing(inputs):
        calls.append(1)
        code = testing.TritonError.UNAVAILABLE if len(calls) < 3 else testing.TritonError.INTERNAL
        raise testing.TritonError("not now", code)

    with section("fallback", scenes=failing) as model:
        assert model.infer({"image": LIT[:1]})["label"].tolist() == [[b"unknown (failed)"]]
        del fake_triton.CHILDREN["scenes"]
        assert model.infer({"image": LIT[:1]})["label"].tolist() == [[b"unknown (unavailable)"]]
    assert len(calls) == 3


def test_streaming_passes_each_answer_on(section):
    def words(inputs):
        for word in (b"a", b"day"):
            yield {"word": np.array([[word]], object)}

    with section("streaming", decoupled=True, captions=words) as model:
        answers = [answer["label"].tolist() for answer in model.stream({"image": LIT[:1]})]
    assert answers == [[[b"a"]], [[b"day"]]]


@pytest.mark.parametrize(("gpu", "kind"), [(None, "CPU"), (0, "GPU")])
def test_gpu_leaves_the_embedding_where_the_instance_runs(section, gpu, kind):
    with section("gpu", gpu=gpu, encoder=embed, scenes=name_scene) as model:
        assert model.infer({"image": LIT[:1]})["label"].tolist() == [[b"day"]]
    memory = [
        (call.preferred_memory.kind.name.rpartition("_")[2], call.preferred_memory.device) for call in model.calls
    ]
    assert memory == [(kind, gpu or 0), ("CPU", 0)]


def test_the_metrics_are_those_that_the_page_lists(section):
    with section("batching", encoder=embed) as model:
        model.infer({"image": LIT})
    shown = {
        (re.sub("_(bucket|sum|count)$", "", name), tuple(sorted(dict(labels).keys() - {"model", "le"})))
        for name, values in fake_triton.METRICS.items()
        for labels in values
    }
    rows = re.findall(r"^\| `(bls_\w+)` \|([^|]*)\|", doc_blocks.PAGE.read_text(), re.MULTILINE)
    assert shown == {(name, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, labels in rows}
