"""Every config.pbtxt, parsed as protobuf, against the contract."""

import re

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as proto

from dualpath.readability.contract import BERT, CHUNK_ROWS, ENSEMBLE, MAX_BATCH_SIZE, MODELS, ORCHESTRATOR
from paths import REPOSITORY, ROOT

SERVED = [model for model in MODELS if model is not ENSEMBLE]
PYTHON = [model for model in SERVED if model.backend == "python"]


def name(model):
    return model.name


def parse(path):
    return text_format.Parse(path.read_text(encoding="utf-8"), proto.ModelConfig())


def config_of(model):
    return parse(REPOSITORY / model.name / "config.pbtxt")


def tensors(entries):
    return [(entry.name, proto.DataType.Name(entry.data_type), tuple(entry.dims)) for entry in entries]


def test_repository_holds_the_models_of_the_contract_and_no_other():
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == {model.name for model in MODELS}


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_config_says_what_the_contract_says(model):
    config = config_of(model)
    assert config.name == model.name
    assert (config.platform if model is ENSEMBLE else config.backend) == model.backend
    assert config.max_batch_size == MAX_BATCH_SIZE
    assert tensors(config.input) == [(t.name, t.dtype, t.dims) for t in model.inputs]
    assert tensors(config.output) == [(t.name, t.dtype, t.dims) for t in model.outputs]


@pytest.mark.parametrize("model", SERVED, ids=name)
def test_model_but_bert_batches_dynamically_without_delay_on_the_cpu(model):
    config = config_of(model)
    assert config.HasField("dynamic_batching") == (model is not BERT)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert [group.kind for group in config.instance_group] == [proto.ModelInstanceGroup.KIND_CPU]


GPU_DIFFERENCES = {
    BERT.name: [("count: 3", "3", "2")],
    ORCHESTRATOR.name: [('"bert_chunk_rows" value { string_value: "2" }', "2", "64")],
}
"""Beside the kind: if a line differs, the CPU's value and the GPU's. docs/gpu.md names them."""
GPU_LINES = {BERT.name: ["dynamic_batching { }"]}
"""Lines that the GPU's config has after the instance group, and the CPU's has not."""


@pytest.mark.parametrize("model", SERVED, ids=name)
def test_gpu_config_differs_in_its_instance_kind_and_what_the_docs_name(model):
    cpu = (REPOSITORY / model.name / "config.pbtxt").read_text()
    gpu = (REPOSITORY / model.name / "configs" / "gpu.pbtxt").read_text()
    expected, documented = cpu, (ROOT / "docs" / "gpu.md").read_text()
    changes = [("kind: KIND_CPU", "KIND_CPU", "KIND_GPU, gpus: [ 0 ]"), *GPU_DIFFERENCES.get(model.name, ())]
    for line, on_cpu, on_gpu in changes:
        assert expected.count(line) == 1
        expected = expected.replace(line, line.replace(on_cpu, on_gpu))
        parameter = line.split('"')[1] if '"' in line else line.split(":")[0]
        [row] = re.findall(rf"^\| `{model.name}` \| `{parameter}` .*", documented, re.MULTILINE)
        assert row.split(" | ")[2:4] == [f"`{on_cpu}`", f"`{on_gpu}`"]
    lines = GPU_LINES.get(model.name, ())
    for line in lines:
        expected = re.sub(r"^instance_group .*\n", rf"\g<0>{line}\n", expected, flags=re.MULTILINE)
        assert f"| `{model.name}` | `{line.split()[0]}` | none | `{line.split(maxsplit=1)[1]}` |" in documented
    assert gpu == expected
    assert len(re.findall(rf"^\| `{model.name}` \|", documented, re.MULTILINE)) == len(changes) + len(lines)


@pytest.mark.parametrize("model", SERVED, ids=name)
def test_with_models_alone_on_the_gpu_these_are_as_on_it_and_the_text_as_on_the_cpu(model):
    """Text takes tensors on the host alone, which no CuPy reads there; BERT's chunks are the GPU's."""
    configs = REPOSITORY / model.name / "configs"
    expected = (configs / "gpu.pbtxt").read_text()
    if model in PYTHON:
        expected = expected.replace("KIND_GPU, gpus: [ 0 ]", "KIND_CPU").replace(
            '"FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" }',
            '"FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "yes" }',
        )
    assert (configs / "gpu-models.pbtxt").read_text() == expected


@pytest.mark.parametrize("model", SERVED, ids=name)
def test_models_take_tensors_where_they_are(model):
    assert config_of(model).parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"


def test_bert_runs_in_the_chunks_that_the_reference_uses():
    assert config_of(BERT).parameters["STAND_IN_CHUNK_ROWS"].string_value == str(CHUNK_ROWS)


def test_orchestrator_keeps_every_instance_of_bert_busy():
    in_flight = config_of(ORCHESTRATOR).parameters["bert_in_flight"].string_value
    assert int(in_flight) == config_of(BERT).instance_group[0].count


def test_ensemble_connects_the_four_steps():
    steps = config_of(ENSEMBLE).ensemble_scheduling.step
    assert [(s.model_name, s.model_version, dict(s.input_map), dict(s.output_map)) for s in steps] == [
        (
            "preprocess",
            -1,
            {"INPUT0": "excerpt"},
            {"BERT_IDS": "bert_input_ids", "BERT_AM": "bert_attention_masks", "TREE_FEATS": "tree_feats"},
        ),
        (
            "bert-large",
            -1,
            {"INPUT__0": "bert_input_ids", "INPUT__1": "bert_attention_masks"},
            {"OUTPUT__0": "bert_large_score"},
        ),
        ("cuml", -1, {"input__0": "tree_feats"}, {"output__0": "cuml_score"}),
        (
            "postprocess",
            -1,
            {"BERT_WEIGHT_INPUT": "BERT_WEIGHT", "BERT_LARGE_SCORE": "bert_large_score", "CUML_SCORE": "cuml_score"},
            {"OUTPUT0": "SCORE"},
        ),
    ]


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_config_opens_with_its_role(model):
    lines = (REPOSITORY / model.name / "config.pbtxt").read_text().splitlines()
    n_comment_lines = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert 1 <= n_comment_lines <= 3
