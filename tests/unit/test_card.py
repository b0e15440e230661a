"""The model card of a training run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dualpath.errors import UserError
from dualpath.repository.facts import Facts
from dualpath.training.blend import WEIGHTS, Blend
from dualpath.training.card import Card

CARD = Card(
    data="rated.csv",
    data_digest="ab" * 32,
    n_rows=4311,
    n_groups=2494,
    n_folds=5,
    seed=7,
    target_deviation=1.038,
    versions={"torch": "2.13.0"},
    date="2026-11-24T04:00:00+00:00",
    elapsed_s=4200,
    encoder="all-MiniLM-L6-v2",
    engine="sklearn",
    kept="fine-tuned",
    head_rmse=0.555,
    tuned_rmse=0.541,
    bert_rmse=0.541,
    forest_rmse=0.777,
    blend=Blend(tuple(0.54 + (weight - 0.95) ** 2 for weight in WEIGHTS), 0.5412),
)


def test_card_survives_a_round_trip(tmp_path: Path) -> None:
    part = dataclasses.replace(CARD, blend=None, encoder=None, bert_rmse=None)
    for card in (CARD, part):
        card.facts("all-MiniLM-L6-v2", "bfloat16").write(tmp_path)
        facts = Facts.of(tmp_path)
        assert Card.of(facts) == card
        assert (facts.encoder, facts.precision, facts.versions) == ("all-MiniLM-L6-v2", "bfloat16", card.versions)


def test_a_card_of_before_is_read(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD.as_json() | {"precision": "bfloat16"}))
    facts = Facts.of(tmp_path)
    assert Card.of(facts) == CARD
    assert (facts.encoder, facts.precision) == ("all-MiniLM-L6-v2", "bfloat16")


def test_json_says_the_best_weight_and_every_error() -> None:
    facts = json.loads(json.dumps(CARD.as_json()))
    assert facts["blend"]["best_weight"] == 0.95
    assert len(facts["blend"]["rmse_by_weight"]) == 101
    assert facts["blend"]["rmse_by_weight"]["0.95"] == facts["blend"]["best_rmse"] == pytest.approx(0.54)


def test_line_names_data_and_errors() -> None:
    assert CARD.line == "rated.csv, 4,311 rows, 5 folds: RMSE bert 0.541, forest 0.777, blend 0.540 at 0.95"
    assert dataclasses.replace(CARD, blend=None, bert_rmse=None).line.endswith("RMSE forest 0.777")


def test_page_shows_what_was_measured_and_nothing_else() -> None:
    page = CARD.page()
    for said in (
        "| `bert-large`, fine-tuned; published | 0.541 |",
        "best weight (0.95) | 0.540 |",
        "other folds | 0.541 |",
        "1 h 10 min",
    ):
        assert said in page
    without = dict.fromkeys(("encoder", "kept", "head_rmse", "tuned_rmse", "bert_rmse", "blend"))
    forest_only = dataclasses.replace(CARD, **without).page()
    assert "bert" not in forest_only
    assert "None" not in forest_only


@pytest.mark.parametrize("training", [None, {}, {"blend": 1}, {"blend": None, "rows": 3}])
def test_what_is_no_card_is_refused(training: dict[str, object] | None) -> None:
    with pytest.raises(UserError, match="a version's training: expected a model card, got: "):
        Card.of(Facts(training=training))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            ("version.json", text)
            for text in ("", "[]", '{"rows": 3}', '{"precision": 3}', '{"artifacts": "model.pt"}')
        ),
        *(("build.json", text) for text in ("", "[]", "[1]", '{"encoder": ["minilm"]}')),
        *(("card.json", text) for text in ("", "{}", "[]", '{"encoder": "minilm"}')),
    ],
)
def test_what_are_no_facts_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}: expected the facts of a version, got: "):
        Facts.of(tmp_path)
