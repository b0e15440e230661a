"""What `dualpath models` says of a server that has changed from one release to another."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from dualpath.cli import models as command
from dualpath.serving import client as serving
from dualpath.training.blend import WEIGHTS, Blend
from dualpath.training.card import Card

INDEX = [
    {"name": "bert-large", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    {"name": "bert-large", "version": "2", "state": "READY"},
    {"name": "cuml", "version": "1", "state": "UNLOADING"},
    {"name": "cuml", "version": "2", "state": "READY"},
    {"name": "postprocess", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
]
CARD = Card(
    data="train.csv",
    data_digest="ab" * 32,
    n_rows=100,
    n_groups=50,
    n_folds=5,
    seed=0,
    target_deviation=1.0,
    versions={},
    date="2026-01-31T01:02:03+00:00",
    elapsed_s=60,
    encoder="bert-large-uncased",
    bert_rmse=0.52345,
)


@pytest.fixture
def rows(monkeypatch, tmp_path, capsys):
    """The rows for INDEX, given a repository with version 2 of both models, and what is known of them, and cuml's 1."""
    for version, file in (("bert-large/2", "model.pt"), ("cuml/1", "checkpoint.tl"), ("cuml/2", "checkpoint.tl")):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / file).write_bytes(b"12345")
    CARD.facts("bert-large-uncased", "bfloat16").write(tmp_path / "bert-large/2")
    server = SimpleNamespace(
        get_model_repository_index=lambda as_json: {"models": INDEX},
        get_model_config=lambda name, version, as_json: {"config": {"backend": "b"}},
    )
    monkeypatch.setattr(serving, "connect", lambda url: server)
    command.models(as_json=True, model_repository=tmp_path)
    return json.loads(capsys.readouterr().out)["models"]


@pytest.fixture
def shown(rows):
    """The last row of each model."""
    return {row["model"]: row for row in rows}


def test_the_version_that_is_served_is_shown_with_its_build_and_its_card(shown):
    assert shown["bert-large"]["version"] == "2"
    assert shown["bert-large"]["artifact"] == (
        "2/model.pt (bert-large-uncased, bfloat16, RMSE 0.523 on train.csv, 2026-01-31, 5 bytes)"
    )
    assert shown["cuml"]["artifact"] == "2/checkpoint.tl (5 bytes)"


def test_a_version_that_has_given_way_is_not_shown_but_a_model_that_is_gone_is(shown):
    assert shown.keys() == {"bert-large", "cuml", "postprocess"}
    assert shown["postprocess"]["state"] == "unavailable: unloaded"


def test_a_version_that_is_being_unloaded_is_shown_once(rows):
    versions = [(row["version"], row["state"], row["artifact"]) for row in rows if row["model"] == "cuml"]
    artifact = "checkpoint.tl (5 bytes)"
    assert versions == [("1", "unloading", f"1/{artifact}"), ("2", "ready", f"2/{artifact}")]


def test_a_training_is_one_line_below_the_table_for_all_models_that_it_fitted(monkeypatch, tmp_path, capsys):
    ready = [{"name": name, "version": "2", "state": "READY"} for name in ("bert-large", "cuml")]
    card = dataclasses.replace(CARD, forest_rmse=0.75, blend=Blend(tuple(0.5 + weight for weight in WEIGHTS)))
    for name in ("bert-large", "cuml"):
        (tmp_path / name / "2").mkdir(parents=True)
        card.facts(None, None).write(tmp_path / name / "2")
    server = SimpleNamespace(
        get_model_repository_index=lambda as_json: {"models": ready},
        get_model_config=lambda name, version, as_json: {"config": {"backend": "b"}},
    )
    monkeypatch.setattr(serving, "connect", lambda url: server)
    command.models(model_repository=tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "bert-large 2 and cuml 2: train.csv, 100 rows, 5 folds: RMSE bert 0.523, forest 0.750, blend 0.500 at 0.00; "
        f"{tmp_path}/bert-large/2/model-card.md"
    )
