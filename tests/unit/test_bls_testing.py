"""What the public fake of Triton says of a model that breaks Triton's rules, and of a folder that is none."""

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from pbtxt_texts import messages, texts
from tritonclient.grpc.model_config_pb2 import ModelConfig

from dualpath.bls import testing
from dualpath.bls.testing.config import parse
from dualpath.repository.pbtxt_fields import ConfigSyntaxError

CONFIG = """
input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
X = {"x": np.ones(2, np.float32)}
ANSWER = "pb_utils.InferenceResponse([pb_utils.Tensor('y', np.ones(2, np.float32))])"


@pytest.fixture
def model(tmp_path):
    """model(lines of execute) -> the folder of a model that runs them for the one request `r`."""

    def write(*lines, initialize="pass", config=CONFIG):
        body = "\n        ".join(("[r] = requests", *lines))
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(config)
        (tmp_path / "m" / "1" / "model.py").write_text(
            "import numpy as np\nimport triton_python_backend_utils as pb_utils\n\n\nclass TritonPythonModel:\n"
            f"    def initialize(self, args):\n        {initialize}\n\n"
            f"    def execute(self, requests):\n        {body}\n"
        )
        return tmp_path / "m"

    return write


def test_a_request_that_is_never_answered_is_reported(model):
    folder = model("r.get_response_sender()", "return [None]")
    with pytest.raises(AssertionError, match="m: a request was never answered"), testing.serve(folder) as served:
        served.start(X)


def test_none_without_a_sender_is_reported(model):
    folder = model("return [None]")
    with pytest.raises(AssertionError, match="m: a request was never answered"), testing.serve(folder) as served:
        served.start(X)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("r.is_cancelled()", "is_cancelled was asked after the final response"),
        ("r.get_response_sender()", "a response sender was taken after the final response"),
    ],
)
def test_what_comes_after_the_final_response_is_reported(model, after, words):
    folder = model("s = r.get_response_sender()", f"s.send({ANSWER}, 1)", after, "return [None]")
    with pytest.raises(AssertionError, match=words), testing.serve(folder) as served:
        served.start(X)


def test_a_response_beside_a_sender_is_reported(model):
    folder = model("r.get_response_sender()", f"return [{ANSWER}]")
    with pytest.raises(AssertionError, match=r"execute returned .* for a request with has_sender=True"):  # noqa: SIM117
        with testing.serve(folder) as served:
            served.start(X)


def test_what_initialize_raises_reaches_the_test(model):
    folder = model("return []", initialize="raise ValueError('no weights')")
    with pytest.raises(ValueError, match=r"^no weights$"), testing.serve(folder):
        pass


def test_log_lines_and_parameters_are_seen(model):
    lines = 'args["model_config"].find("slow") > 0 and pb_utils.Logger.log_warn("slow it is")'
    folder = model(f"return [{ANSWER}]", initialize=lines)
    with testing.serve(folder, parameters={"mode": "slow"}) as served:
        assert served.infer(X)["y"].tolist() == [1, 1]
        assert served.log == [("warn", "slow it is")]


@pytest.mark.parametrize("config", ["input {", "input [ {} ", "a: $", "}", 'name: "open'])
def test_a_config_that_is_none_is_refused_by_its_path(model, config):
    folder = model("return []", config=config)
    with pytest.raises(ValueError, match=r"m/config\.pbtxt(:\d+:\d+)?: expected .*, got.*\. Correct"):  # noqa: SIM117
        with testing.serve(folder):
            pass


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a config\.pbtxt, got none"), testing.serve(tmp_path):
        pass


def test_protobuf_text_is_read_as_json_has_it():
    text = """
    # a comment
    name: 'it''s' max_batch_size: 8, dims: [ -1, 2 ] dims: 3;
    parameters { key: "a" value: < string_value: "one " "\\"two\\"" > }
    parameters [ { key: "b" value { string_value: "" } } ]
    response_cache { enable: true } kind: KIND_CPU ratio: 0.5
    """
    assert parse(text) == {
        "name": "its",
        "max_batch_size": 8,
        "dims": [-1, 2, 3],
        "parameters": {"a": {"string_value": 'one "two"'}, "b": {"string_value": ""}},
        "response_cache": {"enable": True},
        "kind": "KIND_CPU",
        "ratio": 0.5,
    }


@given(st.data())
def test_a_config_means_what_triton_reads(data):
    message = data.draw(messages())
    text = data.draw(texts(message))
    assert json_format.ParseDict(parse(text), ModelConfig()) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'name: "\101\x42\x4a\303\251\n"', {"name": "ABJé\n"}),
        ("max_batch_size: 0x10", {"max_batch_size": 16}),
        ("max_batch_size: 010", {"max_batch_size": 8}),
        ("input [ { optional: True }, { optional: 0 } ]", {"input": [{"optional": True}, {"optional": False}]}),
        ('parameters { key: "a" }', {"parameters": {"a": {}}}),
        ("name: 'a' # 'b'\n 'c'", {"name": "ac"}),
        (r'name: "\u00e9\U0001f600"', {"name": "é😀"}),
        (
            "a: inf b: -infinity c: 1.5f d: .5 e: 1e3F f: - 2",
            {"a": float("inf"), "b": float("-inf"), "c": 1.5, "d": 0.5, "e": 1000.0, "f": -2},
        ),
    ],
)
def test_text_is_read_in_each_way_in_which_it_may_be_written(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["[x]: 1", "name: 'a' name: 'b'", r"name: '\q'", "name: 'a", "max_batch_size: 08"])
def test_what_triton_refuses_is_refused(text):
    with pytest.raises((ConfigSyntaxError, ValueError)):
        parse(text)
