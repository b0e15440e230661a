"""Configs as protobuf text: what they mean, where everything stands, and edits that leave the rest as it was."""

import pytest
from google.protobuf import text_format
from hypothesis import assume, given
from hypothesis import strategies as st
from pbtxt_texts import messages, texts
from tritonclient.grpc.model_config_pb2 import ModelConfig

from dualpath.repository.pbtxt import Config, Unknown
from dualpath.repository.pbtxt_fields import ConfigSyntaxError
from paths import REPOSITORY

ENSEMBLE = """\
# Zwei Schritte, 两步
name: 'two'   # single quotes
platform: "ensemble"
max_batch_size: 8#glued
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }
input { name: "y" data_type: TYPE_STRING dims: 1 dims: 2 }
ensemble_scheduling {
  step {
    model_name: "a"  # first
    model_version: - 1
    input_map [ { key: "i" value: "x" }, { key: "j" value: "y" } ]
  }
  step < model_name: "b" >
}
parameters [ { key: "k" value { string_value: "1" "2" } } ]
"""


def parsed(text):
    return text_format.Parse(text.removeprefix("\ufeff"), ModelConfig())


def test_a_config_means_what_triton_reads():
    message = Config(ENSEMBLE).message
    assert (message.name, message.platform, message.max_batch_size) == ("two", "ensemble", 8)
    assert [(tensor.name, list(tensor.dims)) for tensor in message.input] == [("x", [-1, 3]), ("y", [1, 2])]
    first, second = message.ensemble_scheduling.step
    assert (first.model_name, first.model_version, dict(first.input_map)) == ("a", -1, {"i": "x", "j": "y"})
    assert second.model_name == "b"
    assert message.parameters["k"].string_value == "12"


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [
        (("name",), 2, "'two'"),
        (("max_batch_size",), 4, "8"),
        (("input", 1, "dims", 1), 6, "2"),
        (("ensemble_scheduling", "step", 0, "model_version"), 10, "- 1"),
        (("ensemble_scheduling", "step", 0, "input_map", "j", "value"), 11, '"y"'),
        (("ensemble_scheduling", "step", 1), 13, '< model_name: "b" >'),
        (("parameters", "k", "value", "string_value"), 15, '"1" "2"'),
    ],
)
def test_every_field_has_its_place(path, line, text):
    config = Config(ENSEMBLE)
    place = config.find(*path)
    assert (config.line(*path), config.text[place.start : place.end]) == (line, text)


def test_the_line_of_a_field_that_is_not_there_is_that_of_its_message():
    config = Config(ENSEMBLE)
    assert config.find("ensemble_scheduling", "step", 1, "model_version") is None
    assert config.line("ensemble_scheduling", "step", 1, "model_version") == 13
    assert config.line("instance_group") == 1


@given(st.data())
def test_a_text_means_what_text_format_says(data):
    message = data.draw(messages())
    text = data.draw(texts(message))
    config = Config(text)
    assert config.message == message == parsed(text)
    assert config.unknown == ()


def leaves(message, path=()):
    """The path and value of each scalar of a message."""
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                yield from item_leaves(
                    field.message_type.fields_by_name["value"], item, (*path, field.name, str(key), "value")
                )
        elif field.is_repeated:
            for i, item in enumerate(value):
                yield from item_leaves(field, item, (*path, field.name, i))
        else:
            yield from item_leaves(field, value, (*path, field.name))


def item_leaves(field, item, path):
    if field.message_type:
        yield from leaves(item, path)
    else:
        yield path, field, item


@given(st.data())
def test_the_place_of_every_scalar_holds_its_value(data):
    message = data.draw(messages())
    text = data.draw(texts(message))
    config = Config(text)
    for path, field, item in leaves(message):
        place = config.find(*path)
        written = text[place.start : place.end]
        if field.cpp_type == field.CPPTYPE_STRING:
            assert parsed(f"name: {written}").name == item


@given(st.data())
def test_a_field_that_is_added_and_removed_leaves_the_text_as_it_was(data):
    message = data.draw(messages())
    message.ClearField("version_policy")
    text = data.draw(texts(message))
    config = Config(text)
    assume(config.fields)
    added = config.add("version_policy { specific { versions: 3 } }")
    assert list(added.message.version_policy.specific.versions) == [3]
    added.message.ClearField("version_policy")
    assert added.message == message
    assert added.remove("version_policy").text == text


@given(st.data())
def test_removing_a_field_removes_it_alone(data):
    message = data.draw(messages())
    text = data.draw(texts(message))
    for field, value in message.ListFields():
        if not field.is_repeated:
            changed = Config(text).remove(field.name)
            expected = ModelConfig()
            expected.CopyFrom(message)
            expected.ClearField(field.name)
            assert changed.message == expected
        elif not (field.message_type and field.message_type.GetOptions().map_entry):
            for i in range(len(value)):
                expected = ModelConfig()
                expected.CopyFrom(message)
                del getattr(expected, field.name)[i]
                assert Config(text).remove(field.name, i).message == expected


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (lambda c: c.add("version: 3"), 'name: "a"', 'name: "a"\nversion: 3'),
        (lambda c: c.add("x: 1"), "", "x: 1\n"),
        (lambda c: c.add("x: 1"), "# note", "# note\nx: 1\n"),
        (lambda c: c.add("x: 1"), "a: 1 # one\n\n# end\n", "a: 1 # one\nx: 1\n\n# end\n"),
        (lambda c: c.add("x: 1"), "a: 1, b: 2", "a: 1, b: 2 x: 1"),
        (lambda c: c.add("x: 1"), "\ta: 1,\r\n", "\ta: 1,\r\n\tx: 1\r\n"),
        (lambda c: c.remove("a"), "# top\na: 1\nb: 2\n", "# top\nb: 2\n"),
        (lambda c: c.remove("a"), "a: 1 # why\nb: 2\n", " # why\nb: 2\n"),
        (lambda c: c.remove("m", "a"), "m { a: 1 b: 2 }", "m { b: 2 }"),
        (lambda c: c.remove("d", 1), "d: [ 1, 2, 3 ]", "d: [ 1, 3 ]"),
        (lambda c: c.remove("d", 2), "d: [\n 1,\n # three\n 3,\n 4\n]", "d: [\n 1,\n # three\n 3\n]"),
    ],
)
def test_an_edit_looks_as_a_person_would_make_it(edit, before, after):
    assert edit(Config(before)).text == after


def test_a_file_is_written_back_byte_for_byte(tmp_path):
    path = tmp_path / "config.pbtxt"
    content = "\ufeff# caf\u00e9\r\nname: 'x' ".encode() + b"# caf\xe9 in Latin-1\n"
    path.write_bytes(content)
    config = Config.load(path)
    assert config.message.name == "x"
    config.add("version: 3").save(path)
    assert path.read_bytes() == content[:-1] + b"\r\nversion: 3\n"


def test_what_a_newer_triton_has_is_named_and_left_out_of_the_message():
    config = Config(
        'name: "x"\nnew_field { a: [ 1, { b: "c" } ] }\n  dynamic_batching { newer: 3, '
        "max_queue_delay_microseconds: 5 }\ninput { name: 'i' data_type: TYPE_FP4 }"
    )
    assert config.unknown == (
        Unknown("new_field", 2, 1),
        Unknown("dynamic_batching.newer", 3, 22),
        Unknown("input.data_type: TYPE_FP4", 4, 19),
    )
    assert config.message == parsed(
        "name: 'x' dynamic_batching { max_queue_delay_microseconds: 5 } input { name: 'i' }"
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("name: 'x'\ninput [ { } { } ]", 2, 13, "expected ',' or ']', got '{'"),
        ("name 'x'", 1, 6, "expected ':' and a value, or '{', got \"'\""),
        ("name:", 1, 6, "expected a value, got the end of the file"),
        ("input {\n", 2, 1, "expected a field's name or '}', got the end of the file"),
        ("name: 'x", 1, 7, 'expected a value, got "\'"'),
        ("\u3000name: 'x'", 1, 1, "expected a field's name, got '\\u3000'"),
        ("\n max_batch_size: 'x'", 2, 18, "Couldn't parse integer"),
        ("name: 'x'\nname: 'y'", 2, 7, 'should not have multiple "name" fields'),
        ("name: 'x' }", 1, 11, "expected a field's name, got '}'"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, line, column, words):
    with pytest.raises(ConfigSyntaxError) as caught:
        _ = Config(text, "m/config.pbtxt").message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"m/config.pbtxt:{line}:{column}: expected")
    assert words in str(caught.value)


def test_our_own_configs_are_read_as_text_format_reads_them():
    configs = sorted(REPOSITORY.glob("*/*.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))
    assert len(configs) > 6
    for path in configs:
        assert Config.load(path).message == parsed(path.read_text())
