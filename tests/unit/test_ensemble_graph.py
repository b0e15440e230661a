"""An ensemble as a graph, and the drawings of it."""

import json
import re

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.convert.draw import as_data, as_mermaid, as_text
from dualpath.convert.graph import load_ensemble
from dualpath.errors import UserError
from foreign import SERVED, SOURCE
from paths import REPOSITORY


def test_the_graph_of_our_own_ensemble():
    graph = load_ensemble(REPOSITORY / "ensemble_all").graph
    assert [[step.model for step in stage] for stage in graph.stages()] == [
        ["preprocess"],
        ["bert-large", "cuml"],
        ["postprocess"],
    ]
    bert = graph.steps[1]
    assert [(tensor.name, tensor.tensor, tensor.dtype, tensor.shape) for tensor in bert.inputs] == [
        ("INPUT__0", "bert_input_ids", "INT64", (-1, -1)),
        ("INPUT__1", "bert_attention_masks", "INT64", (-1, -1)),
    ]
    assert graph.source("tree_feats") == graph.steps[0].outputs[2]


def test_text_shows_stages_dtypes_and_shapes():
    assert as_text(load_ensemble(SOURCE / "tiled_detection").graph) == (
        """\
tiled_detection (no batch dimension)
  in   image  UINT8 [?, ?, 3]
    1 ── tile_image
           image <- image  UINT8 [?, ?, 3]
           tiles -> tiles  FP32 [?, 12]
           count -> n_tiles  INT32 [1]
    2 ── tile_net
           tile <- tiles  FP32 [?, 12] as FP32 [rows, 12]
           logits -> tile_logits  FP32 [rows, 2]
    3 ── tile_merge
           all_logits <- tile_logits  FP32 [rows, 2] as FP32 [?, 2]
           n <- n_tiles  INT32 [1]
           verdict -> merged  FP32 [2]
    4 ── calibrate
           raw <- merged  FP32 [2] as FP32 [rows, 2]
           calibrated -> verdict  FP32 [rows, 2]
  out  verdict  FP32 [rows, 2] as FP32 [1, 2]
  out  tile_logits  FP32 [rows, 2] as FP32 [?, 2]"""
    )


def test_text_opens_nested_ensembles():
    lines = as_text(load_ensemble(SOURCE / "intent").graph).splitlines()
    assert "    1 ┬─ sentence_encoder (ensemble)" in lines
    assert "      │    :     2 ── encode" in lines


def test_mermaid_opens_nested_ensembles_and_leads_edges_to_their_steps():
    lines = as_mermaid(load_ensemble(SOURCE / "intent").graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  subgraph s0["sentence_encoder (ensemble)"]' in lines
    assert '    s0_1["encode"]' in lines
    assert '  in_0 -- "SENTENCE<br>STRING [rows, 1]" --> s0_0' in lines
    assert '  s0_0 -- "ids<br>INT64 [rows, 6]" --> s0_1' in lines
    assert '  s0_1 -- "state<br>FP32 [rows, 4]" --> s2' in lines
    assert '  s2 -- "intent<br>FP32 [rows, 3]" --> out_0' in lines


@pytest.mark.parametrize("name", SERVED)
def test_every_step_is_drawn_with_an_edge_for_each_tensor(name):
    graph = load_ensemble(SOURCE / name).graph
    mermaid = as_mermaid(graph)
    ends = {node for edge in re.findall(r"^  (\S+) -- .* --> (\S+)$", mermaid, re.M) for node in edge}
    nodes = set(re.findall(r"^ +(\w+)[\[(]", mermaid, re.M)) - set(re.findall(r"subgraph (\w+)", mermaid))
    # Within a nested ensemble, a step may end at a tensor that the outer one does not take.
    assert nodes - ends <= {"s0_0"}
    assert "never starts" not in as_text(graph)


def test_json_gives_the_whole_graph():
    result = CliRunner().invoke(app, ["graph", str(SOURCE / "intent"), "--json"])
    data = json.loads(result.output)
    assert data == json.loads(json.dumps(as_data(load_ensemble(SOURCE / "intent").graph)))
    assert data["stages"] == [[0, 1], [2]]
    assert data["steps"][0]["graph"]["steps"][1] == {
        "model": "encode",
        "version": -1,
        "namespace": "",
        "batched": True,
        "decoupled": False,
        "sequence": False,
        "inputs": [
            {"name": "ids", "tensor": "ids", "dtype": "INT64", "shape": [-1, 6]},
            {"name": "mask", "tensor": "mask", "dtype": "INT64", "shape": [-1, 6]},
        ],
        "outputs": [{"name": "state", "tensor": "STATE", "dtype": "FP32", "shape": [-1, 4]}],
    }


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "expected the folder of an ensemble, got no such folder. Pass REPOSITORY/ENSEMBLE."),
        ("encode", "expected an ensemble, got a config without ensemble_scheduling. Pass an ensemble's folder."),
    ],
)
def test_what_is_no_ensemble_is_refused(path, words):
    with pytest.raises(UserError, match=re.escape(words)):
        load_ensemble(SOURCE / path)


def test_a_template_is_named_as_one(tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.pbtxt").write_text(
        "# ${in_a_comment}\nname: 'llm'\nmax_batch_size: ${triton_max_batch_size}\n"
    )
    with pytest.raises(
        UserError, match=r"config.pbtxt:3:17: expected a config, got a template with \$\{triton_max_batch_size\} still"
    ):
        load_ensemble(tmp_path / "llm")


def test_a_config_of_another_name_is_pointed_to_and_taken(tmp_path):
    folder = tmp_path / "tabular"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "ensemble.pbtxt").write_bytes((SOURCE / "tabular" / "config.pbtxt").read_bytes())
    with pytest.raises(UserError, match=r"Pass --config .*1/ensemble.pbtxt\."):
        load_ensemble(folder)
    assert [step.model for step in load_ensemble(folder, folder / "1" / "ensemble.pbtxt").graph.steps] == [
        "features",
        "classify",
    ]
