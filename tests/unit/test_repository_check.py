"""`dualpath check`: each planted fault at its line, and nothing in what is sound."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.convert.check import check_repository
from foreign import build
from paths import REPOSITORY

STEP_A = """\
name: "a"
backend: "python"
max_batch_size: 8
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 2 ] } ]
"""
STEP_B = """\
name: "b"
backend: "python"
max_batch_size: 8
input [ { name: "y", data_type: TYPE_FP32, dims: [ 2 ] } ]
input [ { name: "o", data_type: TYPE_FP32, dims: [ 1 ], optional: true } ]
output [ { name: "z", data_type: TYPE_INT32, dims: [ 1 ] } ]
"""
ENSEMBLE = """\
name: "e"
platform: "ensemble"
max_batch_size: 8
input [ { name: "X", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [
  { name: "Z", data_type: TYPE_INT32, dims: [ 1 ] }
]
ensemble_scheduling {
  step [
    {
      model_name: "a"
      model_version: -1
      input_map { key: "x" value: "X" }
      output_map { key: "y" value: "mid" }
    },
    {
      model_name: "b"
      model_version: 1
      input_map { key: "y" value: "mid" }
      output_map { key: "z" value: "Z" }
    }
  ]
}
"""


@pytest.fixture
def repository(tmp_path):
    for name, config in {"a": STEP_A, "b": STEP_B, "e": ENSEMBLE}.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(config)
        if name != "e":
            (tmp_path / name / "1" / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    return tmp_path


def found(repository, n_cores=2):
    return [
        (str(finding.file.relative_to(repository)), finding.line, finding.message)
        for finding in check_repository(repository, n_cores)
    ]


def plant(repository, model, old, new):
    path = repository / model / "config.pbtxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_nothing_is_found_in_sound_models(repository, tmp_path_factory):
    assert found(repository) == []
    foreign = build(tmp_path_factory.mktemp("check") / "models")
    assert found(foreign) == []
    assert found(REPOSITORY) == []


FAULTS = {
    "unmapped input": (
        "e",
        '      input_map { key: "y" value: "mid" }\n',
        "",
        [
            (16, "step 1 (b): input_map: expected an entry for the input 'y' of b, got none."),
            (14, "'mid', which nothing"),
        ],
    ),
    "input that the model does not have": (
        "e",
        'key: "y" value: "mid" }\n      output_map { key: "z"',
        'key: "yy" value: "mid" }\n      output_map { key: "z"',
        [
            (16, "expected an entry for the input 'y' of b, got none."),
            (19, "step 1 (b): input_map: expected an input of b (o, y), got 'yy'. Write 'y', if that is meant."),
        ],
    ),
    "tensor produced twice": (
        "e",
        'key: "z" value: "Z"',
        'key: "z" value: "mid"',
        [
            (6, "output 'Z': expected a step that gives it, got none."),
            (
                20,
                "step 1 (b): output_map: expected a tensor that nothing else gives, got 'mid', which step 0 (a) gives",
            ),
        ],
    ),
    "tensor never produced": (
        "e",
        'key: "y" value: "mid" }\n      output_map { key: "z"',
        'key: "y" value: "middle" }\n      output_map { key: "z"',
        [
            (14, "expected a tensor that a step or an output takes, got 'mid', which nothing takes."),
            (19, "step 1 (b): input_map: expected a tensor that an input or a step gives, got 'middle'. Write 'mid'"),
        ],
    ),
    "type mismatch": (
        "a",
        'name: "y", data_type: TYPE_FP32',
        'name: "y", data_type: TYPE_FP16',
        [(19, "step 1 (b): input 'y': data_type: expected FP16, as step 0 (a) gives 'mid', got FP32.")],
    ),
    "shape mismatch": (
        "a",
        "dims: [ 2 ]",
        "dims: [ 3 ]",
        [(19, "step 1 (b): input 'y': dims: expected [3], as step 0 (a) gives 'mid', got [2].")],
    ),
    "shape mismatch at an output": (
        "e",
        "TYPE_INT32, dims: [ 1 ]",
        "TYPE_INT32, dims: [ 2 ]",
        [(6, "output 'Z': dims: expected [1], as step 1 (b) gives 'Z', got [2].")],
    ),
    "circle": (
        "e",
        'key: "x" value: "X"',
        'key: "x" value: "Z"',
        [
            (4, "input 'X': expected a step that takes it, got none."),
            (13, "got a circle of steps 0 (a), 1 (b) through 'Z'."),
            (13, "step 0 (a): input 'x': data_type: expected INT32"),
        ],
    ),
    "max_batch_size above a step's": (
        "e",
        "max_batch_size: 8",
        "max_batch_size: 16",
        [(3, "max_batch_size: expected at most 8, which a takes, got 16."), (3, "which b takes")],
    ),
    "backend for platform": (
        "e",
        'platform: "ensemble"',
        'backend: "ensemble"',
        [(2, "backend: expected none for an ensemble, got 'ensemble'. Write `platform: \"ensemble\"`.")],
    ),
    "platform missing": ("e", 'platform: "ensemble"\n', "", [(1, 'platform: expected "ensemble", got none.')]),
    "instance group on an ensemble": (
        "e",
        "max_batch_size: 8\n",
        "max_batch_size: 8\ninstance_group [ { count: 2 } ]\n",
        [(4, "instance_group: expected none for an ensemble, since the steps have instances of their own. Remove it.")],
    ),
    "batching on an ensemble": (
        "e",
        "max_batch_size: 8\n",
        "max_batch_size: 8\ndynamic_batching { }\n",
        [(4, "dynamic_batching: expected none for an ensemble, since the steps batch for themselves. Remove it.")],
    ),
    "version that is not there": (
        "e",
        "model_version: 1",
        "model_version: 3",
        [(18, "step 1 (b): model_version: expected one of 1 version folders of")],
    ),
    "model that is not there": (
        "e",
        'model_name: "b"',
        'model_name: "bb"',
        [(17, "step 1 (bb): expected a model 'bb' in")],
    ),
    "name that differs from the folder": (
        "a",
        'name: "a"',
        'name: "A"',
        [(1, "name: expected 'a', the name of the folder, got 'A'.")],
    ),
    "field that the protocol does not have": (
        "a",
        "max_batch_size",
        "max_batchsize: 1\nmax_batch_size",
        [(3, "column 1: expected a field that Triton's protocol has, got 'max_batchsize'.")],
    ),
    "template": ("a", "max_batch_size: 8", "max_batch_size: ${rows}", [(3, "got ${rows} of a template.")]),
    "no text of a config": ("a", "dims: [ 4 ]", "dims: [ 4 ", [(4, "expected ',' or ']'")]),
    "byte-order mark": ("a", 'name: "a"', '\ufeffname: "a"', [(1, "got a byte-order mark, which Triton refuses.")]),
    "unused input": (
        "e",
        "input [ {",
        'input [ { name: "W", data_type: TYPE_FP32, dims: [ 1 ] }, {',
        [(4, "input 'W': expected a step that takes it, got none.")],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_line(repository, fault):
    model, old, new, expected = FAULTS[fault]
    plant(repository, model, old, new)
    findings = found(repository)
    assert {file for file, _, _ in findings} == {f"{'e' if expected[0][0] > 5 else model}/config.pbtxt"}
    assert sorted(line for _, line, _ in findings) == sorted(line for line, _ in expected)
    for line, words in expected:
        assert any(at == line and words in message for _, at, message in findings), (words, findings)


def test_a_file_that_a_version_lacks_is_found(repository):
    (repository / "a" / "1" / "model.py").unlink()
    [(file, line, message)] = found(repository)
    assert (file, line) == ("a/config.pbtxt", 2)
    assert f"version 1: expected {repository / 'a/1/model.py'}, got none." in message


def test_a_config_in_the_version_folder_is_found(repository):
    (repository / "e" / "config.pbtxt").rename(repository / "e" / "1" / "config.pbtxt")
    [(file, _, message)] = found(repository)
    assert file == "e/config.pbtxt"
    assert "expected config.pbtxt in the model's folder, got 1/config.pbtxt. Move it there." in message


def test_a_version_that_the_policy_does_not_serve_is_found(repository):
    shutil.copytree(repository / "b" / "1", repository / "b" / "2")
    [(file, line, message)] = found(repository)
    assert (file, line) == ("e/config.pbtxt", 18)
    assert "expected the version that b serves (2), got 1. Write -1, or add `version_policy" in message


def test_a_step_without_model_version_means_version_0(repository):
    plant(repository, "e", "      model_version: 1\n", "")
    [(_, line, message)] = found(repository)
    assert line == 16
    assert "model_version: expected a version or -1, got none, which Triton takes for version 0. Write -1" in message
    shutil.copytree(repository / "b" / "1", repository / "b" / "0")
    plant(repository, "b", "max_batch_size", "version_policy { all { } }\nmax_batch_size")
    assert found(repository) == []


@pytest.mark.parametrize(
    "code",
    [
        'child = pb_utils.InferenceRequest(model_name="gone", inputs=[])',
        'NAME = "gone"\nchild = bls.Child(NAME, "y")',
        'class M:\n    def initialize(self, args):\n        self.child = bls.BatchedChild("gone", "y")',
    ],
)
def test_a_child_that_is_not_there_is_found_in_the_code(repository, code):
    (repository / "a" / "1" / "model.py").write_text(code)
    [(file, line, message)] = found(repository)
    assert (file, line) == ("a/1/model.py", code.count("\n") + 1)
    assert "got 'gone', which is not there." in message


def test_a_child_whose_name_is_made_at_run_time_is_not_judged(repository):
    (repository / "a" / "1" / "model.py").write_text('child = bls.Child(config.parameters["child"], "y")')
    assert found(repository) == []


@pytest.mark.parametrize(
    ("group", "threads", "n_cores", "words"),
    [
        ("count: 4, kind: KIND_CPU", "1", 2, "4 instances of 1 threads. Write count: 2 and INTRA_OP_THREAD_COUNT 1"),
        ("count: 2, kind: KIND_CPU", "2", 2, "2 instances of 2 threads. Write INTRA_OP_THREAD_COUNT 1"),
        ("count: 2, kind: KIND_CPU", None, 8, "2 instances of 8 threads, which an instance takes without"),
        ("count: 2, kind: KIND_CPU", "4", 8, None),
        ("count: 3, kind: KIND_CPU", "1", 2, None),
        ("count: 4, kind: KIND_GPU", None, 2, None),
    ],
)
def test_more_threads_than_cores_are_found(repository, group, threads, n_cores, words):
    path = repository / "a" / "config.pbtxt"
    config = STEP_A.replace("python", "pytorch") + f"instance_group [ {{ {group} }} ]\n"
    if threads:
        config += f'parameters {{ key: "INTRA_OP_THREAD_COUNT" value {{ string_value: "{threads}" }} }}\n'
    path.write_text(config)
    (repository / "a" / "1" / "model.py").rename(repository / "a" / "1" / "model.pt")
    findings = found(repository, n_cores)
    if words is None:
        assert findings == []
    else:
        [(_, line, message)] = findings
        assert line == 6
        assert words in message


def test_a_decoupled_step_joined_with_what_came_before_it_is_found(repository):
    plant(repository, "a", "max_batch_size: 8", "max_batch_size: 8\nmodel_transaction_policy { decoupled: true }")
    plant(
        repository, "b", 'name: "o", data_type: TYPE_FP32, dims: [ 1 ]', 'name: "o", data_type: TYPE_FP32, dims: [ 4 ]'
    )
    plant(
        repository,
        "e",
        '{ key: "y" value: "mid" }\n      output_map { key: "z"',
        '[ { key: "y" value: "mid" }, { key: "o" value: "X" } ]\n      output_map { key: "z"',
    )
    [(_, line, message)] = found(repository)
    assert line == 19
    assert "some from before a decoupled step and some from after it." in message


def test_two_steps_that_take_one_tensor_in_ways_that_exclude_each_other_are_found(repository):
    """Triton compares with the end that it reads first, which need not be the one that makes the tensor."""
    for name, dims in (("whole", "-1, 2"), ("single", "2")):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text("")
        (repository / name / "config.pbtxt").write_text(
            f'backend: "python" input {{ name: "y" data_type: TYPE_FP32 dims: [ {dims} ] }} '
            f'output {{ name: "{name}" data_type: TYPE_FP32 dims: [ {dims} ] }}'
        )
    steps = "".join(
        f'step {{ model_name: "{name}" model_version: -1 input_map {{ key: "y" value: "mid" }} '
        f'output_map {{ key: "{name}" value: "{name}" }} }}\n'
        for name in ("whole", "single")
    )
    plant(repository, "e", "ensemble_scheduling {\n", f"ensemble_scheduling {{\n{steps}")
    plant(
        repository,
        "e",
        "output [\n",
        "".join(f'output {{ name: "{n}" data_type: TYPE_FP32 dims: [ 2 ] }}\n' for n in ("whole", "single"))
        + "output [\n",
    )
    [(_, line, message)] = found(repository)
    assert line == 12
    assert "step 1 (single): input 'y': dims: expected [-1, 2], as step 0 (whole) takes 'mid', got [2]." in message


def test_an_ensemble_that_contains_itself_is_found(repository):
    plant(repository, "e", 'model_name: "a"', 'model_name: "outer"')
    (repository / "outer" / "1").mkdir(parents=True)
    text = (
        ENSEMBLE.replace('"e"', '"outer"')
        .replace('"a"', '"e"')
        .replace('"x"', '"X"')
        .replace('"y" value: "mid"', '"Z" value: "mid"', 1)
    )
    (repository / "outer" / "config.pbtxt").write_text(text)
    findings = found(repository)
    for file in ("e/config.pbtxt", "outer/config.pbtxt"):
        assert any(
            (at, line) == (file, 11) and "got an ensemble that contains it." in message
            for at, line, message in findings
        )


def test_an_ensemble_over_a_config_that_cannot_be_read_is_not_judged(repository):
    (repository / "outer" / "1").mkdir(parents=True)
    text = (
        ENSEMBLE.replace('"e"', '"outer"')
        .replace('"a"', '"e"')
        .replace('"x" value', '"X" value')
        .replace('"y" value: "mid"', '"Z" value: "mid"', 1)
    )
    (repository / "outer" / "config.pbtxt").write_text(text)
    plant(repository, "a", "max_batch_size: 8", "max_batch_size:")
    [(file, line, message)] = found(repository)
    assert (file, line) == ("a/config.pbtxt", 4)
    assert "expected a field's name, got '['." in message


def test_the_command_prints_findings_and_exits_with_1(repository):
    runner = CliRunner()
    sound = runner.invoke(app, ["check", str(repository)])
    assert (sound.exit_code, sound.output) == (0, "No findings in 3 models.\n")
    plant(repository, "e", "model_version: 1", "model_version: 3")
    result = runner.invoke(app, ["check", str(repository)])
    assert result.exit_code == 1
    assert result.output.startswith(f"{repository}/e/config.pbtxt:18: step 1 (b): model_version: expected")
    assert result.output.endswith("1 finding in 3 models.\n")
    result = runner.invoke(app, ["check", str(repository), "--json"])
    [finding] = json.loads(result.output)
    assert (result.exit_code, finding["line"], finding["model"], finding["fails"]) == (1, 18, "e", True)
