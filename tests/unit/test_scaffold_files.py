"""What `dualpath scaffold` writes, and what it refuses to write."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.convert.code import assign, call, identifiers, lay_out, mapping
from dualpath.convert.graph import load_ensemble
from dualpath.convert.scaffold import Refused, scaffold
from dualpath.convert.write import model_py
from dualpath.errors import UserError
from dualpath.repository.pbtxt import Config
from foreign import SERVED, build
from paths import REPOSITORY, ROOT


@pytest.fixture
def foreign(tmp_path):
    return build(tmp_path / "models")


@pytest.fixture(scope="module")
def scaffolded(tmp_path_factory):
    repository = build(tmp_path_factory.mktemp("scaffolded") / "models")
    for name in SERVED:
        scaffold(repository / name)
    return repository


def ruff(*arguments):
    return subprocess.run([sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_our_own_ensemble_as_code():
    assert (
        model_py(load_ensemble(REPOSITORY / "ensemble_all").graph)
        == (ROOT / "tests" / "ensembles" / "ensemble_all_bls.py").read_text()
    )


def test_our_own_ensemble_takes_less_than_60_lines_and_passes_strict_typing(tmp_path):
    code = model_py(load_ensemble(REPOSITORY / "ensemble_all").graph)
    assert len(code.splitlines()) < 60
    (tmp_path / "model.py").write_text(code)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "model.py")], capture_output=True, text=True, cwd=ROOT
    )
    assert checked.returncode == 0, checked.stdout


def test_the_code_is_formatted_and_clean(scaffolded):
    files = [*scaffolded.glob("*_bls/1/model.py"), *scaffolded.glob("*_bls/test_*.py")]
    assert len(files) == 2 * len(SERVED)
    for width in ("88", "120"):
        formatted = ruff("format", "--check", "--line-length", width, *map(str, files))
        assert formatted.returncode == 0, formatted.stdout
    clean = ruff("check", "--config", str(ROOT / "pyproject.toml"), *map(str, files))
    assert clean.returncode == 0, clean.stdout


def test_the_unit_tests_pass(scaffolded):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(scaffolded)],
        capture_output=True,
        text=True,
        cwd=scaffolded,
    )
    assert f"{len(SERVED)} passed" in run.stdout, run.stdout


def test_the_config_keeps_the_published_tensors(foreign):
    for name in SERVED:
        written = scaffold(foreign / name)
        ensemble = Config.load(foreign / name / "config.pbtxt").message
        config = Config.load(written.folder / "config.pbtxt").message
        assert (config.name, config.backend, config.platform) == (f"{name}_bls", "python", "")
        assert config.max_batch_size == ensemble.max_batch_size
        assert list(config.input) == list(ensemble.input)
        assert list(config.output) == list(ensemble.output)
        assert config.response_cache == ensemble.response_cache
        assert dict(config.parameters) == dict(ensemble.parameters)
        assert config.model_transaction_policy.decoupled == (name == "chat")
    assert (foreign / "image_classify_bls" / "labels.txt").read_bytes().startswith(b"cat\n")


def test_steps_that_do_not_depend_on_each_other_run_together(scaffolded):
    code = (scaffolded / "two_towers_bls" / "1" / "model.py").read_text()
    assert "user_state, (item_vector, item_state) = await bls.together(" in code
    assert "    async def ad_item_to_ad_item_tower(self, item: Any) -> Any:" in code


def test_one_model_in_several_steps_is_one_child(scaffolded):
    code = (scaffolded / "text_similarity_bls" / "1" / "model.py").read_text()
    assert code.count("bls.Child(") == 2
    assert code.count("self.text_embed.call(") == 2


def test_one_model_in_two_steps_at_the_same_time_has_two_answers(foreign):
    embed = foreign / "text_embed" / "config.pbtxt"
    embed.write_text(embed.read_text() + "output [ { name: 'norm', data_type: TYPE_FP32, dims: [ 1 ] } ]\n")
    ensemble = foreign / "text_similarity" / "config.pbtxt"
    text = ensemble.read_text()
    for name in ("query", "passage"):
        text = text.replace(
            f'value: "{name}_vector" }} ]\n    }}',
            f'value: "{name}_vector" }}, {{ key: "norm" value: "{name}_norm" }} ]\n    }}',
        )
        text += f"output {{ name: '{name}_norm' data_type: TYPE_FP32 dims: 1 }}\n"
    ensemble.write_text(text)
    code = (scaffold(foreign / "text_similarity").folder / "1" / "model.py").read_text()
    assert "        text_embed, text_embed_2 = await bls.together(\n" in code
    assert '        query_norm = text_embed["norm"]\n' in code
    assert '        passage_norm = text_embed_2["norm"]\n' in code


def test_pinned_versions_stay_pinned(scaffolded):
    code = (scaffolded / "ranker_shadow_bls" / "1" / "model.py").read_text()
    assert re.findall(r'self\.(\w+) = bls\.Child\("ranker", "rank", (.*?)forward_parameters', code) == [
        ("ranker", "version=1, "),
        ("ranker_2", "version=2, "),
        ("ranker_3", ""),
    ]


def test_optional_tensors_flow_without_an_if(scaffolded):
    code = (scaffolded / "transcription_bls" / "1" / "model.py").read_text()
    assert 'temperature = request.inputs.get("temperature")' in code
    assert '("speech", "language?")' in code
    assert 'language = speech_detect.get("language")' in code


def test_a_decoupled_step_is_streamed_on(scaffolded):
    code = (scaffolded / "chat_bls" / "1" / "model.py").read_text()
    assert 'async for generate in self.generate.stream({"ids": ids, "limit": limit}):' in code
    assert '            yield {"piece": piece, "logprob": logprob}' in code


def test_there_is_one_place_for_a_condition(scaffolded):
    for name in SERVED:
        assert (scaffolded / f"{name}_bls" / "1" / "model.py").read_text().count("# A condition goes here") == 1


def test_inline_opens_nested_ensembles(foreign):
    written = scaffold(foreign / "intent", out="opened", inline=True)
    code = (written.folder / "1" / "model.py").read_text()
    assert "self.sentence_encoder" not in code
    assert 'self.encode.call({"ids": ids, "mask": sentence_encoder_mask})' in code  # the outer one has a "mask" too


def test_vendor_puts_the_toolkit_beside_the_model(foreign):
    written = scaffold(foreign / "tabular", vendor=True)
    assert {"1/dualpath/__init__.py", "1/dualpath/bls/__init__.py"} <= set(written.files)
    alone = f"import sys; sys.path.insert(0, {str(written.folder / '1')!r}); "
    alone += "from dualpath import bls; print(bls.__file__)"
    run = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(written.folder / "1" / "dualpath" / "bls" / "__init__.py")


def test_an_existing_model_is_replaced_only_by_force(foreign):
    folder = scaffold(foreign / "tabular").folder
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"expected no such folder, got one. Choose another name with --out, or replace"
    ):
        scaffold(foreign / "tabular")
    assert (folder / "mine.txt").read_text() == "mine"
    scaffold(foreign / "tabular", force=True)
    assert not (folder / "mine.txt").exists()
    with pytest.raises(UserError, match=r"got one. Choose another name with --out\."):
        scaffold(foreign / "tabular", out="tabular", force=True)
    assert [path.name for path in foreign.iterdir() if path.name.startswith(".")] == []


def test_a_config_of_another_name_without_platform_and_with_newer_fields_is_taken(foreign):
    folder = foreign / "tabular"
    text = (folder / "config.pbtxt").read_text()
    text = "\ufeff" + text.replace('platform: "ensemble"', "").replace('"tabular"', '"another"')
    text = text.replace(
        "ensemble_scheduling {", "a_newer_field { x: 1 }\nensemble_scheduling {\n  max_inflight_requests: 4"
    )
    (folder / "1" / "ensemble.pbtxt").write_text(text)
    (folder / "config.pbtxt").unlink()
    written = scaffold(folder, config=folder / "1" / "ensemble.pbtxt")
    assert written.folder.name == "tabular_bls"
    assert any("says name 'another'; the folder's name 'tabular' is used" in note for note in written.notes)
    assert any(re.search(r"ensemble.pbtxt:10:1: a_newer_field is not known here", note) for note in written.notes)
    assert any("max_inflight_requests has no counterpart" in note for note in written.notes)


REFUSED = {
    "a sequence-batched step": (
        "text_similarity",
        ("text_embed", "max_batch_size: 8", "max_batch_size: 8\nsequence_batching { }"),
        [
            (21, "step 1 (text_embed): sequence_batching of text_embed: expected a model without sequences"),
            (27, "step 2 (text_embed): sequence_batching of text_embed: expected a model without sequences"),
        ],
    ),
    "a step in another namespace": (
        "ocr",
        ("ocr", 'model_name: "ocr_detect"', 'model_name: "ocr_detect"\n    model_namespace: "team"'),
        [(21, "step 2 (ocr_detect): model_namespace: expected none, got 'team'")],
    ),
    "a model that is not there": (
        "ocr",
        ("ocr", 'model_name: "ocr_detect"', 'model_name: "ocr_detekt"'),
        [
            (20, "step 2 (ocr_detekt): expected a model 'ocr_detekt'"),
        ],
    ),
    "a circle": (
        "two_towers",
        ("two_towers", 'value: "item" }', 'value: "click" }'),
        [(4, "input 'item': expected a step that takes it"), (9, "circle")],
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_translated_is_refused_by_step_and_field(foreign, reason):
    name, (model, old, new), expected = REFUSED[reason]
    config = foreign / model / "config.pbtxt"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    before = sorted(foreign.rglob("*"))
    with pytest.raises(Refused) as caught:
        scaffold(foreign / name)
    assert sorted(foreign.rglob("*")) == before
    for line, words in expected:
        assert any(f.line == line and words in f.message for f in caught.value.findings), caught.value.findings


def test_a_template_is_refused_as_one(foreign):
    config = foreign / "generate" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 0", "max_batch_size: ${triton_max_batch_size}"))
    with pytest.raises(UserError, match=r"generate/config.pbtxt:3:17: expected a config, got a template with"):
        scaffold(foreign / "chat")
    assert not (foreign / "chat_bls").exists()


def test_a_nested_ensemble_that_reshapes_is_not_opened(foreign):
    config = foreign / "sentence_encoder" / "config.pbtxt"
    text = config.read_text().replace(
        'name: "STATE", data_type: TYPE_FP32, dims: [ 4 ]',
        'name: "STATE", data_type: TYPE_FP32, dims: [ 4, 1 ], reshape { shape: [ 4 ] }',
    )
    config.write_text(text)
    head = foreign / "intent_head" / "config.pbtxt"
    head.write_text(head.read_text().replace("dims: [ 4 ]", "dims: [ 4, 1 ]"))
    with pytest.raises(Refused, match=r"--inline: expected a nested ensemble that can be opened.*'STATE' is reshaped"):
        scaffold(foreign / "intent", inline=True)
    assert not (foreign / "intent_bls").exists()
    assert scaffold(foreign / "intent").folder.is_dir()


def test_the_command_names_files_notes_and_the_next_step(foreign):
    runner = CliRunner()
    result = runner.invoke(app, ["scaffold", str(foreign / "price"), "--out", "quote"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:3] == [str(foreign / "quote" / file) for file in ("1/model.py", "config.pbtxt", "test_quote.py")]
    assert lines[3].startswith("Note: price_features has priority_levels")
    assert lines[4].endswith("dualpath compare price quote.")
    (foreign / "price_model" / "config.pbtxt").write_text("sequence_batching { }\ninput { name: 'vector' }")
    result = runner.invoke(app, ["scaffold", str(foreign / "price"), "--json"])
    assert result.exit_code == 1
    assert any("sequence_batching" in finding["message"] for finding in json.loads(result.output)["refused"])


def test_names_are_pythons_own_form_and_differ():
    assert identifiers(["INPUT__0", "input-0", "class", "request", "BertIds", "9x", "画像", "list"]) == {
        "INPUT__0": "input_0",
        "input-0": "input_0_2",
        "class": "class_",
        "request": "request_",
        "BertIds": "bert_ids",
        "9x": "tensor_9x",
        "画像": "画像",
        "list": "list_",
    }


def test_long_code_gets_a_line_for_each_part():
    inputs = mapping([(f"input_{i}", f"variable_{i}") for i in range(4)])
    assert lay_out(call("self.x.call", inputs), 8, "y = await ") == [
        "        y = await self.x.call(",
        "            {",
        *(f'                "input_{i}": variable_{i},' for i in range(4)),
        "            }",
        "        )",
    ]
    targets = [f"a_long_variable_{i}" for i in range(6)]
    assert assign(targets, call("f", "x"), 4) == [
        "    (",
        *(f"        {name}," for name in targets),
        "    ) = await f(x)",
    ]


def step(model, given, made):
    maps = f'input_map {{ key: "x" value: "{given}" }} output_map {{ key: "y" value: "{made}" }}'
    return f'step {{ model_name: "{model}" model_version: -1 {maps} }}'


def ensemble(*steps):
    return f'platform: "ensemble" ensemble_scheduling {{ {" ".join(steps)} }}'


@pytest.mark.parametrize("after", [[], [step("a", "z", "y")]])
def test_inline_names_the_inner_step_that_is_refused(tmp_path, after):
    configs = {
        "a": 'backend: "python"',
        "c": 'backend: "python" sequence_batching { }',
        "inner": ensemble(step("a", "x", "m"), step("c", "m", "y")),
        "outer": ensemble(step("inner", "x", "z" if after else "y"), *after),
    }
    for name, config in configs.items():
        (tmp_path / name / "1").mkdir(parents=True)
        ends = (
            f'{kind} {{ name: "{end}" data_type: TYPE_FP32 dims: 1 }}'
            for kind, end in [("input", "x"), ("output", "y")]
        )
        (tmp_path / name / "config.pbtxt").write_text(f"{config} max_batch_size: 8 {' '.join(ends)}")
    with pytest.raises(Refused, match=r"step 1 \(c\): sequence_batching of c: expected a model without sequences"):
        scaffold(tmp_path / "outer", inline=True)
