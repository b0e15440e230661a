"""Each behaviour of the public fake of Triton, on the fake and on the real server: one test for both."""

import json
import re

import fake_and_real
import numpy as np
import pytest
from fake_and_real import ARRAYS, MODELS, failure, said

fake, real, served = fake_and_real.fake, fake_and_real.real, fake_and_real.served


def test_a_request_carries_what_its_caller_gave(served):
    answer = served.infer(
        "probe",
        {"FP32": ARRAYS["FP32"], "BOOL": ARRAYS["BOOL"]},
        parameters={"a": "ä", "b": True, "c": 3},
        timeout_s=20,
        request_id="an id",
        outputs=["JSON", "FP32_OUT"],
    )
    seen = json.loads(answer["JSON"][0])
    assert json.loads(seen.pop("parameters")) == {"a": "ä", "b": True, "c": 3}
    assert seen == {
        "id": "an id",
        "timeout": 20_000_000,
        "outputs": ["FP32_OUT", "JSON"],
        "inputs": ["BOOL", "FP32"],
        "absent": True,
    }


def test_a_request_that_carries_nothing_asks_for_all_outputs(served):
    seen = json.loads(served.infer("probe", {})["JSON"][0])
    assert (seen["parameters"], seen["id"], seen["timeout"], seen["inputs"]) == ("{}", "", 0, [])
    assert len(seen["outputs"]) == 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": {"nope": np.zeros(2)}}, "unexpected inference input 'nope' for model 'probe'"),
        ({"outputs": ["nope"]}, "unexpected inference output 'nope' for model 'probe'"),
        (
            {"inputs": {"FP32": np.zeros(2)}},
            "[request id: <id_unknown>] inference input 'FP32' data-type is 'FP64', but model 'probe' expects 'FP32'",
        ),
        (
            {"inputs": {"MATRIX": np.zeros((2, 3), np.float32)}},
            "[request id: <id_unknown>] unexpected shape for input 'MATRIX' for model 'probe'. "
            "Expected [-1,2], got [2,3].",
        ),
        (
            {"inputs": {"MATRIX": np.zeros(2, np.float32)}},
            "[request id: <id_unknown>] unexpected shape for input 'MATRIX' for model 'probe'. "
            "Expected [-1,2], got [2].",
        ),
        (
            {"model": "doubler", "inputs": {"x": np.zeros((5, 2), np.float32)}},
            "[request id: <id_unknown>] inference request batch-size must be <= 4 for 'doubler'",
        ),
        (
            {"model": "doubler"},
            "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'doubler'. Got input(s) [], but "
            "missing required input(s) ['x']. Please provide all required input(s).",
        ),
    ],
)
def test_what_does_not_fit_the_config_is_refused(served, options, words):
    code, said = failure(served, **options)
    assert (code, said.strip()) == ("INVALID_ARG", words)


@pytest.mark.parametrize(
    "code",
    ["UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"],
)
def test_a_models_error_reaches_its_caller_with_its_code(served, code):
    assert failure(served, "fail", code=code) == (code, "as it was told")


def test_an_error_beside_outputs_wins(served):
    assert failure(served, "both") == ("INTERNAL", "all the same")


def test_an_exception_answers_with_its_words_and_where_it_came_from(served):
    code, words = failure(served, "stumble")
    assert code == "INTERNAL"
    path = re.escape(str(MODELS / "probe/1/model.py"))
    frames = "".join(rf"  {path}\(\d+\): {name}\n" for name in ("inner", "stumble", "execute"))
    assert re.fullmatch(
        rf"Failed to process the request\(s\) for model 'probe_0_0', message: KeyError: 'no\\nsuch'\n\nAt:\n{frames}",
        words,
    )


def test_outputs_that_the_config_lacks_vanish_and_dtypes_are_not_checked(served):
    answer = served.infer("probe", {}, parameters={"probe": "odd_outputs"})
    assert {name: array.dtype for name, array in answer.items()} == {"FP32_OUT": np.float64, "JSON": np.object_}


def test_an_answer_may_hold_nothing(served):
    assert served.infer("probe", {}, parameters={"probe": "nothing"}) == {}


def test_outputs_that_were_not_asked_for_are_not_given(served):
    answer = served.infer("probe", {"FP32": ARRAYS["FP32"]}, parameters={"probe": "echo"}, outputs=["JSON"])
    assert list(answer) == ["JSON"]


def test_what_execute_must_return_is_said(served):
    begin = "Failed to process the request(s) for model 'probe_0_0', message: "
    assert failure(served, "two_answers") == (
        "INTERNAL",
        f"{begin}Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
        "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:2\n",
    )
    assert failure(served, "no_response") == (
        "INTERNAL",
        f"{begin}Expected an 'InferenceResponse' object in the execute function return list, found type "
        "'<class 'int'>'.",
    )


def test_a_sender_answers_once(served):
    assert said(served, "sender") == [
        "TritonModelException: Inference Response object must be provided when the response flags is set to zero.",
        "TritonModelException: Unable to send response. Unsupported flag provided.",
    ]
    assert said(served, "sent_twice") == "first"
    assert said(served, "words_of_last_time").startswith("TritonModelException: Unable to send response. ")


def test_a_model_is_told_that_its_caller_has_gone(served):
    served.cancel_one("probe", {"probe": "wait_for_cancellation"})
    assert said(served, "words_of_last_time") is True


def test_a_childs_answers_and_errors(served):
    begin = "Model doubler - Error when running inference: "
    answers = said(served, "children")
    decoupled, exception = answers.pop("decoupled")[0], answers.pop("exception")[0]
    assert decoupled[1].startswith(
        "Model counter - Error when running inference: Model counter is using the decoupled."
    )
    assert exception[1].startswith("Failed to process the request(s) for model 'doubler_0_0', message: ValueError: as ")
    answers["no input"][0][1] = answers["no input"][0][1].partition(" for model")[0]
    assert answers == {
        "plain": [None, {"y": [[2, 4]]}],
        "all outputs": [None, {"y": [[2, 4]]}],
        **{
            name: [["INTERNAL", words], {}]
            for name, words in {
                "unknown model": "Model absent - Error when running inference: "
                "Failed for execute the inference request. Model 'absent' is not ready.",
                "unknown input": f"{begin}unexpected inference input 'q' for model 'doubler'",
                "unknown output": f"{begin}unexpected inference output 'z' for model 'doubler'",
                "no input": f"{begin}[request id: <id_unknown>] expected 1 inputs but got 0 inputs",
                "dtype": f"{begin}[request id: <id_unknown>] inference input 'x' data-type is 'FP64', but model "
                "'doubler' expects 'FP32'",
                "too many rows": f"{begin}[request id: <id_unknown>] inference request batch-size must be <= 4 for "
                "'doubler'",
                "error": "as it was told",
            }.items()
        },
    }


def test_a_childs_input_of_another_shape_is_refused(served):
    for (code, words), shape in zip(said(served, "wrong_shape"), ("1,3", "2"), strict=True):
        assert code == "INTERNAL"
        assert f"unexpected shape for input 'x' for model 'doubler'. Expected [-1,2], got [{shape}]." in words


def test_a_child_gets_what_its_caller_passes_on(served):
    seen = said(served, "passed_on")
    seen.pop("args")
    assert seen == {
        "id": "an id",
        "timeout": 7_000_000,
        "parameters": {"text": "ä", "number": 3, "switch": True},
        "outputs": ["seen", "y"],
    }


def test_parameters_of_a_call_are_texts_whole_numbers_and_booleans(served):
    begin = "TritonModelException: Expect parameters values to have type bool/int/str, found type <class "
    assert said(served, "refused_parameters") == [f"{begin}'{name}'>" for name in ("float", "NoneType", "list")]


def test_a_call_that_lacks_what_it_needs_or_has_too_much_is_a_type_error(served):
    assert said(served, "refused_calls") == ["TypeError", "TypeError"]


def test_a_decoupled_child_is_iterated_and_ends_with_an_empty_response(served):
    end = [None, {}]
    answer = [None, {"y": [[2, 4]]}]
    assert said(served, "streams") == [[end], [[None, {"i": [0]}], [None, {"i": [1]}], end], [answer]]


def test_calls_can_be_awaited(served):
    assert said(served, "asynchronous") == [[None, {"y": [[2, 4]]}], [None, {"y": [[6, 8]]}]]


def test_a_decoupled_model_answers_as_often_as_it_likes(served):
    assert served.stream("counter", {"n": np.array([3], np.int32)}) == [{"i": [0]}, {"i": [1]}, {"i": [2]}]
    assert served.stream("counter", {"n": np.array([0], np.int32)}) == []


def test_a_counter_counts_and_a_gauge_is_set(served):
    assert said(served, "count") == [2.5, 2]


def test_the_helpers_of_tritons_module(served):
    dtypes = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 object float32"
    assert said(served, "helpers") == {
        "input": "TYPE_FP16",
        "output": [-1],
        "none": None,
        "dtypes": dtypes.split(),
        "decoupled": False,
        "final": 1,
        "ready": [True, False],
    }


def arguments(served, model):
    """What `initialize` received, its config decoded."""
    if model == "probe":
        args = said(served, "arguments")
    else:
        x = np.zeros((1, 2), np.float32)
        args = json.loads(served.infer("doubler", {"x": x})["seen"][0, 0])["args"]
    return {**args, "model_config": json.loads(args["model_config"])}


@pytest.mark.parametrize("model", ["probe", "doubler"])
def test_initialize_gets_the_same_arguments_of_both(fake, real, model):
    assert arguments(fake, model) == arguments(real, model)


def test_the_config_of_a_decoupled_model_is_completed_as_triton_does(fake, real):
    [given] = [fake.models["counter"].config]
    of_server = real.client.get_model_config("counter", as_json=True)["config"]
    assert given["model_transaction_policy"] == of_server["model_transaction_policy"]
    assert [group["name"] for group in given["instance_group"]] == [
        group["name"] for group in of_server["instance_group"]
    ]
