"""A model's parameters, and the request parameters that override them."""

import json

import numpy as np
import pytest
from bls_driver import asking, error_of, serving
from fake_triton import ReceivedRequest, TritonError
from hypothesis import given
from hypothesis import strategies as st

from dualpath.bls import BadParameter, ConfigError, ModelConfig
from dualpath.bls.request import Arrival, Request

CHOICES = ("fail", "fallback")


def config(parameters=(), kind="CPU", folder="/nowhere", **raw):
    settings = {key: {"string_value": value} for key, value in dict(parameters).items()}
    return ModelConfig(
        {
            "model_config": json.dumps({"input": [], "output": [], "parameters": settings, **raw}),
            "model_name": "m",
            "model_version": "3",
            "model_repository": str(folder),
            "model_instance_kind": kind,
        }
    )


def test_a_path_may_name_the_models_own_version(tmp_path):
    (tmp_path / "other/3").mkdir(parents=True)
    (tmp_path / "other/3/file").touch()
    found = config({"file": "../other/{version}/file"}, folder=tmp_path / "m")
    assert found.path("file") == tmp_path / "other/3/file"
    assert found.version == 3
    with pytest.raises(ConfigError, match=f"expected the file {tmp_path}/other/3/none"):
        config({"file": "../other/{version}/none"}, folder=tmp_path / "m").path("file")


def request_with(parameters):
    return Request([Arrival(ReceivedRequest({"x": np.zeros(1)}, parameters), has_batch=True)])


@pytest.mark.parametrize(
    ("configured", "asked", "expected"),
    [
        ({}, None, "fail"),
        ({}, {"other": 1}, "fail"),
        ({"on_error": "fallback"}, None, "fallback"),
        ({"on_error": "fallback"}, {"on_error": "fail"}, "fail"),
        ({}, {"on_error": "fallback"}, "fallback"),
    ],
)
def test_setting_is_the_requests_or_else_the_models_or_else_the_first(configured, asked, expected):
    assert config(configured).choice("on_error", CHOICES).of(request_with(asked)) == expected


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
def test_setting_refuses_whatever_else_a_request_asks_for(asked):
    setting = config().choice("on_error", CHOICES)
    request = request_with({"on_error": asked})
    if asked in CHOICES:
        assert setting.of(request) == asked
    else:
        with pytest.raises(BadParameter) as caught:
            setting.of(request)
        assert str(caught.value) == f"parameter 'on_error': expected fail or fallback, got {asked!r}. Send another."


def test_a_bad_request_parameter_is_the_callers_fault_and_fails_its_request_alone():
    setting = config().choice("on_error", CHOICES)

    async def handle(request):
        return {"y": np.array([setting.of(request)], object)}

    with serving(handle) as server:
        bad, good = server.ask(
            asking(1, parameters={"on_error": "panic"}), asking(1, parameters={"on_error": "fallback"})
        )
    assert error_of(bad) == (
        TritonError.INVALID_ARG,
        "parameter 'on_error': expected fail or fallback, got 'panic'. Send another.",
    )
    assert good.arrays()["y"].tolist() == ["fallback"]


def test_setting_refuses_a_default_that_it_does_not_know():
    with pytest.raises(ConfigError) as caught:
        config({"on_error": "panic"}).choice("on_error", CHOICES)
    assert str(caught.value) == "m: parameter 'on_error': expected fail or fallback, got 'panic'. Correct it."


@given(st.one_of(st.text(), st.integers().map(str)))
def test_integer_takes_positive_whole_numbers_only(text):
    try:
        value = int(text) if text.isdecimal() else 0
    except ValueError:
        value = 0
    if value > 0:
        assert config({"n": text}).integer("n") == value
    else:
        with pytest.raises(ConfigError, match="m: parameter 'n': expected a positive whole number, got "):
            config({"n": text}).integer("n")


def test_integer_has_its_default_or_else_is_required():
    assert config().integer("n", 4) == 4
    with pytest.raises(ConfigError, match="expected a positive whole number, got 'nothing'"):
        config().integer("n")


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("True", True), ("false", False), ("FALSE", False)])
def test_boolean_takes_true_and_false(text, expected):
    assert config({"b": text}).boolean("b", default=not expected) is expected
    assert config().boolean("b", default=expected) is expected


def test_boolean_refuses_other_words():
    with pytest.raises(ConfigError, match="m: parameter 'b': expected \"true\" or \"false\", got 'yes'"):
        config({"b": "yes"}).boolean("b", default=True)


def test_path_is_relative_to_the_models_folder_and_must_exist(tmp_path):
    (tmp_path / "words.json").write_text("{}")
    assert config({"words": "words.json"}, folder=tmp_path).path("words") == tmp_path / "words.json"
    with pytest.raises(ConfigError, match="expected a parameter 'words' that names a file, got none"):
        config(folder=tmp_path).path("words")
    with pytest.raises(ConfigError, match=r"m: expected the file .*gone\.json \(parameter 'words'\), got none"):
        config({"words": "gone.json"}, folder=tmp_path).path("words")


def test_artifact_lies_in_the_version_folder_under_its_default_or_configured_name(tmp_path):
    (tmp_path / "3").mkdir()
    for name in ("model.pt", "other.pt"):
        (tmp_path / "3" / name).touch()
    assert config(folder=tmp_path).artifact("model.pt") == tmp_path / "3" / "model.pt"
    named = config(folder=tmp_path, default_model_filename="other.pt")
    assert named.artifact("model.pt") == tmp_path / "3" / "other.pt"
    with pytest.raises(ConfigError, match=r"m: expected the model file .*gone\.pt, got none"):
        config(folder=tmp_path).artifact("gone.pt")


def test_what_cannot_be_honoured_is_refused_by_name():
    config({"known": "1"}).refuse_parameters_except("known", why="this backend")
    with pytest.raises(ConfigError, match="m: expected parameters that this backend honours, got 'new'"):
        config({"known": "1", "new": "1"}).refuse_parameters_except("known", why="this backend")
    config().refuse_gpu("It runs on CPUs.")
    with pytest.raises(ConfigError, match=r"m: expected an instance group of KIND_CPU, got KIND_GPU\. It runs on CPUs"):
        config(kind="GPU").refuse_gpu("It runs on CPUs.")
