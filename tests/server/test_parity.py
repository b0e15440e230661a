"""Both styles and the in-process reference give the same scores."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualpath.readability.contract import SCORERS
from dualpath.readability.excerpts import InvalidInput, check_excerpt
from dualpath.readability.samples import SAMPLES

MODELS = [model.name for model in SCORERS]
TEXTS = [*SAMPLES.values()]


def assert_agree(score, model, excerpts, weights, expected, tolerance):
    """Compare one request's scores; if they differ, say whether they do again, and row by row."""
    got = score(model, excerpts, weights)
    if not np.allclose(got, expected, rtol=0, atol=tolerance):
        again = score(model, excerpts, weights)
        alone = [score(model, [text], [weight])[0] for text, weight in zip(excerpts, weights, strict=True)]
        pytest.fail(f"{model}: expected {expected}, got {got}, again {again}, row by row {alone}")


def is_excerpt(text):
    try:
        check_excerpt(text.encode(), "excerpt")
    except InvalidInput:
        return False
    return True


words = st.sampled_from(
    ["the", "Cat", "naïve", "كتاب", "שלום", "猫", "😀", "👩‍👩‍👧", "Don't", "…", "3.14", "\u200f", "\x00"]
)
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    st.lists(words, min_size=1, max_size=60).map(" ".join),
    st.sampled_from(["word", "a " * 10_000, "supercalifragilistic" * 500, *TEXTS]),
).filter(is_excerpt)
weights = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))
rows = st.tuples(texts, weights)

served = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@served
@given(row=rows)
def test_one_row_is_bitwise_equal(score, reference, row):
    text, weight = row
    expected = reference.score([text.encode()], np.array([weight], np.float32))
    for model in MODELS:
        assert score(model, [text], [weight]).tolist() == expected.tolist()


@settings(served, max_examples=12)
@given(batch=st.lists(rows, min_size=1, max_size=12))
def test_a_batch_agrees_within_the_tolerance(score, reference, tolerance, batch):
    excerpts, weights = zip(*batch, strict=True)
    expected = reference.score([text.encode() for text in excerpts], np.array(weights, np.float32))
    for model in MODELS:
        assert_agree(score, model, excerpts, weights, expected, tolerance)


def test_rows_that_bert_gets_in_one_call_are_bitwise_equal(score, reference):
    texts = TEXTS[:4]
    weights = np.linspace(0.1, 0.9, len(texts), dtype=np.float32)
    expected = reference.score([text.encode() for text in texts], weights)
    assert score("ensemble_all", texts, weights).tolist() == expected.tolist()


def test_rows_that_the_orchestrator_spreads_over_idle_instances_are_bitwise_equal(score, reference):
    texts = TEXTS[:2]  # one for each core
    weights = np.array([0.1, 0.9], np.float32)
    expected = [reference.score([text.encode()], weights[i : i + 1])[0] for i, text in enumerate(texts)]
    assert score("orchestrator", texts, weights).tolist() == expected


def test_512_rows_come_back_in_order_item_by_item(score, reference, tolerance):
    excerpts = [f"Row {i}: {TEXTS[i % len(TEXTS)][: 20 + i % 30]} end." for i in range(512)]
    weights = np.linspace(0, 1, 512, dtype=np.float32)
    expected = reference.score([text.encode() for text in excerpts], weights)
    assert len(set(expected.tolist())) > 500  # so that a row out of place would show
    for model in MODELS:
        assert_agree(score, model, excerpts, weights, expected, tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_bert_reads_512_tokens_and_the_forest_reads_on(score, model):
    head = "old " * 600
    longer = head + "The cat sat on the mat. " * 300
    assert score(model, [head], [1]) == score(model, [longer], [1])
    assert score(model, [head], [0]) != score(model, [longer], [0])


def test_samples_are_ranked_from_nursery_rhyme_to_legal_prose(score):
    scores = score("orchestrator", TEXTS, [0.7] * len(TEXTS)).tolist()
    assert scores.index(max(scores)) <= 1
    assert scores.index(min(scores)) >= len(scores) - 2
    assert max(scores) - min(scores) > 2


def test_orchestrator_sends_each_model_only_the_rows_that_need_it(score, rows_seen):
    before = rows_seen("bert-large"), rows_seen("cuml")
    score("orchestrator", TEXTS[:6], [0, 0, 0, 0.5, 1, 1])
    assert (rows_seen("bert-large") - before[0], rows_seen("cuml") - before[1]) == (3, 4)


def test_orchestrator_calls_no_model_whose_rows_are_none(score, rows_seen):
    before = rows_seen("bert-large"), rows_seen("cuml")
    score("orchestrator", TEXTS[:2], [0, 0])
    score("orchestrator", TEXTS[:3], [1, 1, 1])
    assert (rows_seen("bert-large") - before[0], rows_seen("cuml") - before[1]) == (3, 2)
