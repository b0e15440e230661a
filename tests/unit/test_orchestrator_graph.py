"""The orchestrator's own graph, run by the toolkit on children that a test makes up."""

import fake_triton
import numpy as np
import pytest
from bls_driver import PATIENCE_S, error_of
from fake_triton import ReceivedRequest, TritonError
from loaded_models import args, load


@pytest.fixture
def model(model_repository):
    model = load("orchestrator")
    model.initialize(args("orchestrator", "CPU"))
    yield model
    model.finalize()


@pytest.fixture(autouse=True)
def children():
    """BERT gives the number of tokens, the forest the number of words."""
    fake_triton.CHILDREN["bert-large"] = lambda inputs: {
        "OUTPUT__0": inputs["INPUT__1"].sum(axis=1, keepdims=True).astype(np.float32)
    }
    fake_triton.CHILDREN["cuml"] = lambda inputs: {"output__0": inputs["input__0"][:, :1]}


def request(texts, weights, **options):
    excerpts = np.array([text.encode() for text in texts], object).reshape(-1, 1)
    return ReceivedRequest(
        {"excerpt": excerpts, "BERT_WEIGHT": np.array(weights, np.float32).reshape(-1, 1)}, **options
    )


def ask(model, *requests):
    for it, answer in zip(requests, model.execute(list(requests)), strict=True):
        it.end_of_execute(answer)
    for it in requests:
        assert it.answered.wait(PATIENCE_S)
    return [it.answers[0] for it in requests]


def scores_and_routes(response):
    assert not response.has_error(), response.error().message()
    arrays = response.arrays()
    return arrays["SCORE"][:, 0].tolist(), arrays["ROUTE"][:, 0].tolist()


def test_each_row_gets_the_models_that_its_weight_needs(model):
    mixed, light = request(["one two", "one", "a b c"], [0, 1, 0.5]), request(["just one"], [0])
    first, second = ask(model, mixed, light)
    assert scores_and_routes(first) == ([2, 3, 4], ["cuml", "bert", "bert+cuml"])  # [CLS] a b c [SEP] are five
    assert scores_and_routes(second) == ([2], ["cuml"])


def test_a_request_without_rows_has_an_answer_without_rows(model):
    [response] = ask(model, request([], []))
    assert {name: array.shape for name, array in response.arrays().items()} == {"SCORE": (0, 1), "ROUTE": (0, 1)}


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        ("out of memory", "failed", TritonError.INTERNAL),
        ("Stub process 'bert-large_0_0' is not healthy.", "unavailable", TritonError.UNAVAILABLE),
        ("Exceeds maximum queue size", "unavailable", TritonError.UNAVAILABLE),
    ],
)
def test_route_and_errors_say_what_happened_to_bert(model, words, kind, code):
    def fail(inputs):
        raise RuntimeError(words)

    fake_triton.CHILDREN["bert-large"] = fail
    texts, weights = ["one two", "one"], [0, 1]
    fallback = request(texts, weights, parameters={"on_bert_error": "fallback"})
    refused, light = request(texts, weights), request(["one"], [0])
    for _ in range(2):
        answers = ask(model, fallback, refused, light)
        assert scores_and_routes(answers[0]) == ([2, 1], ["cuml", f"cuml (bert {kind})"])
        assert error_of(answers[1]) == (code, f"bert-large: {words}")
        assert scores_and_routes(answers[2]) == ([1], ["cuml"])
        fallback = request(texts, weights, parameters={"on_bert_error": "fallback"})
        refused, light = request(texts, weights), request(["one"], [0])


def test_a_bad_excerpt_is_named_by_its_row_in_its_own_request(model):
    good, bad = request(["one", "two"], [0, 0]), request(["one", "..."], [0, 0])
    first, second = ask(model, good, bad)
    assert scores_and_routes(first)[0] == [1, 1]
    code, message = error_of(second)
    assert code == TritonError.INVALID_ARG
    assert message.startswith("excerpt[1]: expected text with at least one word")
