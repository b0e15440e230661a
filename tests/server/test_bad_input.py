"""What a caller gets wrong is answered with INVALID_ARG, in the same words by both models, and costs nobody else."""

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from dualpath.readability.contract import SCORERS

MODELS = [model.name for model in SCORERS]
ENSEMBLE_PREFIX = "in ensemble 'ensemble_all', "


def excerpts(*rows, shape=None):
    array = np.empty(len(rows), np.object_)
    array[:] = rows
    return array.reshape(shape or (-1, 1)), "BYTES"


def weights(*rows, shape=None, dtype=np.float32):
    return np.array(rows, dtype).reshape(shape or (-1, 1)), "FP32" if dtype == np.float32 else "FP64"


OURS = {
    "weight is NaN": (
        excerpts(b"a", b"b"),
        weights(0.5, np.nan),
        "BERT_WEIGHT[1]: expected a number from 0 to 1, got nan. Correct it.",
    ),
    "weight is infinite": (
        excerpts(b"a"),
        weights(np.inf),
        "BERT_WEIGHT[0]: expected a number from 0 to 1, got inf. Correct it.",
    ),
    "weight below 0": (
        excerpts(b"a"),
        weights(-0.5),
        "BERT_WEIGHT[0]: expected a number from 0 to 1, got -0.5. Correct it.",
    ),
    "weight above 1": (
        excerpts(b"a"),
        weights(1.5),
        "BERT_WEIGHT[0]: expected a number from 0 to 1, got 1.5. Correct it.",
    ),
    "excerpt is not UTF-8": (
        excerpts(b"a", b"b", b"caf\xe9"),
        weights(0, 0, 0),
        "excerpt[2]: expected UTF-8 text, got byte 0xe9 at offset 3. Encode the text as UTF-8.",
    ),
    "excerpt is empty": (
        excerpts(b"a", b""),
        weights(1, 1),
        "excerpt[1]: expected text with at least one word, got an empty text. Leave the row out.",
    ),
    "excerpt holds no word": (
        excerpts(b"... !"),
        weights(0.5),
        "excerpt[0]: expected text with at least one word, got '... !'. Leave the row out.",
    ),
    "row with two excerpts": (
        excerpts(b"a", b"b", shape=(1, 2)),
        weights(0.5),
        "excerpt[0]: expected one excerpt in each row, got 2. Send shape [rows, 1].",
    ),
    "row with two weights": (
        excerpts(b"a"),
        weights(0.5, 0.5, shape=(1, 2)),
        "BERT_WEIGHT[0]: expected one weight in each row, got 2. Send shape [rows, 1].",
    ),
    "both are bad": (
        excerpts(b"?"),
        weights(2),
        "excerpt[0]: expected text with at least one word, got '?'. Leave the row out.",
    ),
}

CORES = {
    "more rows than the maximum": (
        excerpts(*[b"a"] * 513),
        weights(*[0.5] * 513),
        "inference request batch-size must be <= 512",
    ),
    "no batch dimension": (excerpts(b"a", shape=(1,)), weights(0.5), "unexpected shape for input 'excerpt'"),
    "different numbers of rows": (excerpts(b"a", b"b"), weights(0.5), "batch size does not match"),
    "weight of another dtype": (
        excerpts(b"a"),
        weights(0.5, dtype=np.float64),
        "inference input 'BERT_WEIGHT' data-type is 'FP64', but",
    ),
    "no rows": (excerpts(shape=(0, 1)), weights(shape=(0, 1)), "Expected 4, got 0"),
}


def refusal(raw, model, excerpt, weight):
    with pytest.raises(InferenceServerException) as caught:
        raw.infer(model, excerpt=excerpt, BERT_WEIGHT=weight)
    return caught.value


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", OURS)
def test_bad_rows_are_refused_in_our_words(raw, score, model, case):
    excerpt, weight, message = OURS[case]
    error = refusal(raw, model, excerpt, weight)
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert error.message().removeprefix(ENSEMBLE_PREFIX) == message
    assert np.isfinite(score(model, ["The server is still up."], [0.5])).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", CORES)
def test_bad_shapes_are_refused_in_tritons_words(raw, score, model, case):
    excerpt, weight, message = CORES[case]
    error = refusal(raw, model, excerpt, weight)
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in error.message()
    assert np.isfinite(score(model, ["The server is still up."], [0.5])).all()


@pytest.mark.parametrize("model", MODELS)
def test_missing_input_is_refused(raw, model):
    with pytest.raises(InferenceServerException, match=r"BERT_WEIGHT|expected 2 inputs"):
        raw.infer(model, excerpt=excerpts(b"a"))


@pytest.mark.parametrize("model", MODELS)
def test_a_bad_request_fails_alone_among_concurrent_ones(client, score, model):
    from concurrent.futures import ThreadPoolExecutor

    texts = [["A good row."], ["..."]] * 8
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(score, model, text, [0]) for text in texts]
    expected = score(model, ["A good row."], [0])
    for text, answer in zip(texts, answers, strict=True):
        if text == ["..."]:
            assert "excerpt[0]" in answer.exception().message()
        else:
            assert answer.result() == expected
