"""Calls to a child, and what their failures become for the caller."""

import asyncio

import fake_triton
import numpy as np
import pytest
from bls_driver import asking, error_of, serving
from fake_triton import TritonError

from dualpath.bls import BadParameter, CallerGone, Child, ChildFailed, ChildLate, ChildUnavailable, ConfigError, Metrics


def call(child, **inputs):
    return asyncio.run(child.call(inputs))


def test_a_call_passes_inputs_by_name_and_returns_the_outputs_asked_for():
    fake_triton.CHILDREN["sum"] = lambda inputs: {"unasked": 0, "total": inputs["a"] + inputs["b"], "copy": inputs["a"]}
    a, b = np.array([[1.0, 2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)
    answers = call(Child("sum", ("total", "copy"), version=2), a=a, b=b)
    assert {name: answer.tolist() for name, answer in answers.items()} == {"total": [[4, 6]], "copy": [[1, 2]]}
    [request] = fake_triton.CALLS
    assert (request.model_version, request.requested_output_names) == (2, ["total", "copy"])
    assert (request.preferred_memory.kind, request.preferred_memory.device) == (fake_triton.TRITONSERVER_MEMORY_CPU, 0)


def test_arrays_reach_the_child_without_a_copy():
    seen = []
    fake_triton.CHILDREN["c"] = lambda inputs: seen.extend(inputs.values()) or {"y": inputs["numpy"]}
    mine = np.ones(2, np.float32)

    class OnAnyDevice:
        def __dlpack__(self, **options):
            return mine.__dlpack__(**options)

        def __dlpack_device__(self):
            return mine.__dlpack_device__()

    call(Child("c", ("y",)), numpy=mine, other=OnAnyDevice())
    assert seen[0] is mine
    assert np.shares_memory(seen[1], mine)


def test_a_call_is_a_step_of_the_trace_that_its_request_asks_for():
    fake_triton.CHILDREN["c"] = lambda inputs: {"y": inputs["x"]}
    child = Child("c", "y")

    async def graph(request):
        return {"y": await child.call({"x": request.inputs["rows"]})}

    with serving(graph) as server:
        server.ask(asking(1, trace="unasked"))
        server.ask(asking(2, trace="mine", parameters={"trace_children": True}))
    assert [request.trace for request in fake_triton.CALLS] == [None, "mine"]


@pytest.mark.parametrize(
    "words",
    [
        "Stub process 'c_0_0' is not healthy.",
        "Model c - Error when running inference: Failed for execute the inference request. Model 'c' is not ready.",
        "Request for unknown model: 'c' version 1 is not at ready state",
        "Request for unknown model: 'c' has no available versions",
        "Request for unknown model: 'c' version 2 is not found",
    ],
)
def test_a_child_that_is_not_there_is_unavailable(words):
    def fail(inputs):
        raise RuntimeError(words)

    fake_triton.CHILDREN["c"] = fail
    with pytest.raises(ChildUnavailable) as caught:
        call(Child("c", ("y",)), x=np.ones(1))
    assert str(caught.value) == f"c: {words}"


def test_a_child_that_was_never_loaded_is_unavailable():
    with pytest.raises(ChildUnavailable, match=r"^c: .* Model 'c' is not ready\.$"):
        call(Child("c", ("y",)), x=np.ones(1))


def test_a_childs_own_error_names_the_child_and_gives_its_words():
    fake_triton.CHILDREN["c"] = lambda inputs: 1 / 0
    with pytest.raises(ChildFailed, match=r"^c: division by zero$") as caught:
        call(Child("c", ("y",)), x=np.ones(1))
    assert not isinstance(caught.value, ChildUnavailable)


@pytest.mark.parametrize("words", ["the word 'unavailable' is not found", "no: Request for unknown model: 'x'"])
def test_a_childs_own_words_do_not_make_it_unavailable(words):
    def fail(inputs):
        raise RuntimeError(words)

    fake_triton.CHILDREN["c"] = fail
    with pytest.raises(ChildFailed) as caught:
        call(Child("c", ("y",)), x=np.ones(1))
    assert not isinstance(caught.value, ChildUnavailable)


def test_a_missing_output_names_the_child():
    fake_triton.CHILDREN["c"] = lambda inputs: {"z": inputs["x"]}
    child = Child("c", ("y",))
    for _ in range(3):
        with pytest.raises(ConfigError, match=r"^c: expected an output 'y', got none\. Correct"):
            call(child, x=np.ones(1))
    [(level, text)] = fake_triton.LOGGED
    assert (level, text.startswith("configuration: c: expected an output 'y', got none.")) == ("error", True)


def test_calls_are_counted_by_child_and_outcome():
    outcomes = iter([None, None, "out of memory", "Stub process 'c_0_0' is not healthy."])

    def answer(inputs):
        if words := next(outcomes):
            raise RuntimeError(words)
        return {"y": inputs["x"]}

    fake_triton.CHILDREN["c"] = answer
    metrics = Metrics("m")
    child = Child("c", ("y",), metrics=metrics)
    for error in (None, None, ChildFailed, ChildUnavailable):
        if error:
            with pytest.raises(error):
                call(child, x=np.ones(1))
        else:
            call(child, x=np.ones(1))
    metrics.close()
    counted = {dict(labels)["outcome"]: value for labels, value in fake_triton.METRICS["bls_calls_total"].items()}
    assert counted == {"ok": 2, "failed": 1, "unavailable": 1}


class CallersFault(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CallersFault("no such excerpt"), TritonError.INVALID_ARG, "no such excerpt"),
        (BadParameter("expected a or b"), TritonError.INVALID_ARG, "expected a or b"),
        (CallerGone("cancelled"), TritonError.CANCELLED, "cancelled"),
        (ChildUnavailable("c", "is not found"), TritonError.UNAVAILABLE, "c: is not found"),
        (ChildLate("c", "late"), TritonError.UNAVAILABLE, "c: late"),
        (ChildFailed("c", "broken"), TritonError.INTERNAL, "c: broken"),
        (ChildFailed("c", "broken: ValueError\n\nAt:\n  m.py(3)"), TritonError.INTERNAL, "c: broken: ValueError"),
    ],
)
def test_a_known_error_has_its_code_and_one_line_and_leaves_the_log_alone(error, code, message):
    async def handle(request):
        raise error

    with serving(handle, caller_errors=(CallersFault,)) as server:
        [response] = server.ask(asking(1))
    assert error_of(response) == (code, message)
    assert fake_triton.LOGGED == []


def test_a_bug_has_one_line_for_the_caller_and_its_traceback_in_the_log():
    async def handle(request):
        raise KeyError("first line\nsecond line") from ValueError("the cause")

    async def handle_lines(request):
        raise ValueError("first line\nsecond line")

    with serving(handle) as server:
        [response] = server.ask(asking(1))
    assert error_of(response) == (TritonError.INTERNAL, "KeyError: 'first line\\nsecond line'")
    [(level, text)] = fake_triton.LOGGED
    assert level == "error"
    assert "the cause" in text
    assert "in handle" in text

    with serving(handle_lines) as server:
        [response] = server.ask(asking(1))
    assert error_of(response) == (TritonError.INTERNAL, "ValueError: first line")
    assert "second line" in fake_triton.LOGGED[-1][1]


def test_what_is_none_is_left_out_of_calls_and_answers():
    fake_triton.CHILDREN["c"] = lambda inputs: {"y": inputs["x"], "names": np.array([[len(inputs)]])}
    child = Child("c", ("y", "hint?"))

    async def graph(request):
        answers = await child.call({"x": request.inputs["rows"], "hint": request.inputs.get("hint")})
        return {"y": answers["y"], "hint": answers.get("hint")}

    with serving(graph) as server:
        [answer] = server.ask(asking(1))
    assert [tensor.name() for tensor in answer.output_tensors()] == ["y"]
    assert [tensor.name() for tensor in fake_triton.CALLS[0].inputs] == ["x"]


@pytest.mark.parametrize(
    ("forward", "expected"),
    [((), {}), (("language",), {"language": "en"}), ("*", {"language": "en", "beams": 4})],
)
def test_chosen_parameters_are_handed_on(forward, expected):
    fake_triton.CHILDREN["c"] = lambda inputs: {"y": inputs["x"]}
    child = Child("c", "y", forward_parameters=forward)

    async def graph(request):
        return {"y": await child.call({"x": request.inputs["rows"]})}

    with serving(graph) as server:
        server.ask(asking(1, parameters={"language": "en", "beams": 4}))
    assert [request.parameters for request in fake_triton.CALLS] == [expected]
