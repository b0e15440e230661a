"""The model of docs/shadow.md: who answers whom, and what it says of the challenger's answers."""

import threading
import time

import numpy as np
import pytest

import doc_blocks
from dualpath.bls import testing

IMAGES = np.arange(3 * 192, dtype=np.float32).reshape(3, 3, 8, 8)
PARAMETERS = {"champion": "scene_a", "challenger": "scene_b", "share": "1", "atol": "1e-3"}


def scene(inputs):
    scores = inputs["image"].mean((2, 3))[:, :2]
    return {"scores": scores, "label": np.full((len(scores), 1), b"day", object)}


def off(inputs):
    """Half a place off in one row's scores, far off in another's label."""
    found = scene(inputs)
    found["scores"][0] += 0.25
    found["scores"][1] += 1e-5
    found["label"][2] = b"night"
    return found


@pytest.fixture
def serve(tmp_path):
    """serve(challenger, **parameters): the page's model, its champion being `scene`."""
    doc_blocks.write_example(tmp_path, doc_blocks.SHADOW)

    def serve(challenger, **parameters):
        children = {"scene_a": scene, "scene_b": challenger}
        return testing.serve(tmp_path / "shadow", children=children, parameters=PARAMETERS | parameters)

    return serve


def asked(model, name):
    return [call for call in model.calls if call.model_name == name]


def wait_until(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_callers_get_the_champions_answers_and_the_challengers_are_compared(serve):
    with serve(off, log_every_s="0.05") as model:
        answer = model.infer({"image": IMAGES}, request_id="r7")
        wait_until(lambda: sum("request r7" in text for _, text in model.log) == 2)
    assert answer["scores"].tolist() == scene({"image": IMAGES})["scores"].tolist()
    assert answer["label"].tolist() == [[b"day"]] * 3
    assert answer["ANSWERED_BY"].tolist() == [[b"scene_a"]] * 3
    assert model.metric("bls_shadow_rows_total", outcome="different") == 2
    assert model.metric("bls_shadow_rows_total", outcome="equal") == 1
    assert model.metric("bls_rows_total", route="scene_a") == 3
    assert [model.metric("bls_answer_seconds_count", by=name) for name in ("scene_a", "scene_b")] == [1, 1]
    said = [text for _, text in model.log if text.startswith("shadow: ")]
    assert said == [
        "shadow: request r7, row 2: label [b'day'] and [b'night']",
        "shadow: request r7, row 0: scores [31.5 95.5] and [31.75 95.75]",
    ]


def test_the_share_is_a_parameter_of_the_request(serve):
    with serve(scene, share="0") as model:
        model.infer({"image": IMAGES})
        time.sleep(0.1)
        assert not asked(model, "scene_b")
        model.infer({"image": IMAGES}, parameters={"share": 1.0})
        wait_until(lambda: asked(model, "scene_b"))
        with pytest.raises(testing.RequestFailed, match="share"):
            model.infer({"image": IMAGES}, parameters={"share": 2.0})


def test_callers_do_not_wait_for_a_challenger_that_hangs_and_what_it_misses_is_counted(serve):
    released = threading.Event()

    def hanging(inputs):
        released.wait(20)
        return scene(inputs)

    with serve(hanging) as model:
        model.infer({"image": IMAGES[:1]})
        wait_until(lambda: asked(model, "scene_b"))
        for _ in range(64 + 5):
            model.infer({"image": IMAGES[:1]})
        assert len(asked(model, "scene_b")) == 1
        released.set()
        wait_until(lambda: len(asked(model, "scene_b")) == 65)
    assert model.metric("bls_shadow_rows_total", outcome="left out") == 5
    assert model.metric("bls_shadow_rows_total", outcome="equal") == 65


def test_a_challenger_that_fails_costs_no_answer(serve):
    def broken(inputs):
        raise testing.TritonError("out of memory")

    with serve(broken) as model:
        assert model.infer({"image": IMAGES})["label"].tolist() == [[b"day"]] * 3
        wait_until(lambda: any("out of memory" in text for _, text in model.log))
    assert model.metric("bls_shadow_rows_total", outcome="failed") == 3


def test_a_split_goes_by_the_requests_id(serve):
    with serve(scene, mode="split", share="0.25") as model:
        by = {}
        for number in 2 * list(range(200)):
            answer = model.infer({"image": IMAGES[:1]}, request_id=f"user-{number}")
            by.setdefault(number, set()).add(answer["ANSWERED_BY"].item())
        assert all(len(found) == 1 for found in by.values())
        n_challenger = sum(found == {b"scene_b"} for found in by.values())
        assert 30 < n_challenger < 70
        assert model.infer({"image": IMAGES[:1]})["ANSWERED_BY"].item() == b"scene_a"
        requests = [{"image": IMAGES[:1]}] * 4
        together = [pending.result() for pending in model.start_together(requests, request_id="user-1")]
        assert {it["ANSWERED_BY"].item() for it in together} == by[1]
    assert not model.log
