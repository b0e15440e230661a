"""The device code on a real GPU against the CPU's code: what tests/unit/test_device.py does with pandas and NumPy."""

import importlib.util

import numpy as np
import pytest
from copies import copies_to_host
from random_texts import random_texts

from dualpath.readability import tokens
from dualpath.readability.combine import combine
from dualpath.readability.contract import MAX_BATCH_SIZE
from dualpath.readability.engine import text_engine
from dualpath.readability.features import FeatureCounter, WordLists

N_TEXTS = 10_000
RATIO_TOLERANCE = 1e-6
SCALAR_BYTES = 64
"""No result is as small: cuDF and CuPy read sizes and flags of their own back, a few bytes at a time."""


@pytest.fixture(scope="module")
def files(model_repository):
    return (model_repository / "bert-large/1/tokenizer.json", model_repository / "cuml/1/word_lists.json")


@pytest.fixture(scope="module")
def engine(rapids, files):
    return text_engine(0, *files)


def batches(texts):
    return [texts[start : start + MAX_BATCH_SIZE] for start in range(0, len(texts), MAX_BATCH_SIZE)]


def test_features_equal_the_cpus_on_random_texts_of_all_characters(engine, files):
    lists = WordLists.load(files[1])
    cpu = FeatureCounter(lists)
    for batch in batches(random_texts(N_TEXTS, seed=1, listed=(*lists.most, *lists.least), any_character=True)):
        got, expected = engine.features(batch).get(), cpu.features(batch)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got[:, :4], expected[:, :4])  # words, distinct words, marks, sentences
        np.testing.assert_array_equal(got[:, 5], expected[:, 5])  # stop words
        np.testing.assert_allclose(got, expected, rtol=0, atol=RATIO_TOLERANCE)


def test_token_ids_equal_the_hugging_face_tokenizers_on_random_texts(engine, files):
    cpu = tokens.TokenEncoder(files[0])
    for batch in batches(random_texts(N_TEXTS, seed=2)):
        expected, got = cpu.encode(batch), engine.tokens(batch)
        assert [row.tolist() for row in got] == [row.tolist() for row in expected]
        for padded, expected_padded in zip(engine.pad(got), tokens.pad(expected), strict=True):
            np.testing.assert_array_equal(padded.get(), expected_padded)


def test_nothing_but_row_lengths_is_copied_to_the_host(engine):
    if importlib.util.find_spec("cupti") is None:
        pytest.skip("needs CUPTI: pip install cupti-python")
    import cupy

    batch = random_texts(MAX_BATCH_SIZE, seed=4)
    weights = np.full(len(batch), 0.5, np.float32)

    def everything():
        """Keep what is made, so that no buffer is reused."""
        rows = engine.tokens(batch)
        scores = cupy.asarray(weights)
        return engine.pad(rows), engine.features(batch), combine(weights, scores, scores)

    everything()  # compiles kernels
    with copies_to_host() as sizes:
        made = everything()
    assert isinstance(made[-1], cupy.ndarray)
    row_lengths = 8 * len(batch)
    assert sorted(size for size in sizes if size > SCALAR_BYTES) == [row_lengths]

    with copies_to_host() as sizes:  # that the profiler sees what there is to see
        made[1].get()
    assert made[1].nbytes in sizes
