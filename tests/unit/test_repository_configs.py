"""Configs as Triton reads them, and which versions it serves by them."""

import pytest

from dualpath.errors import UserError
from dualpath.repository import configs, folders
from dualpath.serving.loader import Pins


def model(folder, name, config=None, *files):
    for file in files:
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).touch()
    if config is not None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.pbtxt").write_text(config)
    return folder / name


@pytest.mark.parametrize(
    ("config", "python"),
    [
        ("backend: 'python'", True),
        ('backend:"python"', True),
        ('# backend: "python"\nbackend: "fil"', False),
        ('backend: "python" # "fil"', True),
        ('parameters { key: "a" value { string_value: "# no comment" } } backend: "python"', True),
        ('parameters { key: "a" value { string_value: \'backend: "python"\' } } backend: "fil"', False),
    ],
)
def test_a_backend_is_read_as_protobuf(tmp_path, config, python):
    assert configs.is_python(configs.read(model(tmp_path, "m", config))) is python


def test_parameters_keep_what_looks_like_a_comment(tmp_path):
    config = "parameters { key: 'a' value { string_value: \"../b/{version}/#1.json\" } }"
    assert configs.parameters(configs.read(model(tmp_path, "m", config))) == {"a": "../b/{version}/#1.json"}


@pytest.mark.parametrize(
    ("file", "backend"), [("model.py", "python"), ("model.pt", "pytorch"), ("model.onnx", "onnxruntime"), ("a", "")]
)
def test_a_model_without_a_config_is_completed_by_its_file(tmp_path, file, backend):
    folder = model(tmp_path, "m", None, f"0/{file}")
    assert folders.models(tmp_path) == [folder]
    config = configs.read(folder)
    assert (config.name, config.backend) == ("m", backend)


def test_a_named_config_is_taken_if_the_model_has_it(tmp_path):
    folder = model(tmp_path, "m", "max_batch_size: 1", "configs/gpu.pbtxt")
    (folder / "configs/gpu.pbtxt").write_text("max_batch_size: 2")
    assert [configs.read(folder, name).max_batch_size for name in (None, "gpu", "other")] == [1, 2, 1]


def test_what_is_no_config_is_named_with_its_place(tmp_path):
    with pytest.raises(UserError, match=r"config\.pbtxt:2:10: expected "):
        configs.read(model(tmp_path, "m", 'name: "m"\nbackend: }'))


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ("version_policy { latest { num_versions: 2 } }", {3, 2}),
        ("version_policy { all { } }", {3, 2, 0}),
        ("version_policy { specific { versions: [ 0, 2 ] } }", {0, 2}),
    ],
)
def test_versions_are_served_by_the_policy(tmp_path, policy, served):
    assert configs.served_versions(model(tmp_path, "m", policy, "0/a", "2/a", "3/a")) == served


def ensemble(*steps):
    said = " ".join(f'step {{ model_name: "{name}" model_version: {version} }}' for name, version in steps)
    return f'platform: "ensemble" ensemble_scheduling {{ {said} }}'


def test_versions_that_ensembles_name_are_loaded_before_these_and_what_contains_them(tmp_path):
    model(tmp_path, "m", "", "1/a", "2/a")
    model(tmp_path, "whole", "version_policy { all { } }", "1/a", "2/a")
    model(tmp_path, "a_outer", ensemble(("inner", -1)), "1/.keep")
    model(tmp_path, "inner", ensemble(("m", 1), ("whole", 1)), "1/.keep")
    model(tmp_path, "newest", ensemble(("m", 2), ("whole", 1)), "1/.keep")
    pins = Pins.of(folders.models(tmp_path))
    assert pins == Pins({"m": {1, 2}}, ["inner", "a_outer"])


def test_a_version_that_an_ensemble_names_and_that_is_not_there_is_refused(tmp_path):
    model(tmp_path, "m", "", "2/a")
    model(tmp_path, "pinned", ensemble(("m", 1)), "1/.keep")
    with pytest.raises(UserError, match=r"pinned: expected version 1 of m, which a step names, at .*/m/1, got none"):
        Pins.of(folders.models(tmp_path))
