"""The device's code, run on pandas and NumPy, against the CPU's code, value by value."""

import os

import numpy as np
import pytest
from fake_rapids import FakeDevice, on_host
from random_texts import random_texts

from dualpath.readability import device, tokens
from dualpath.readability.contract import MAX_BATCH_SIZE
from dualpath.readability.device import DeviceFeatureCounter, DeviceTokenEncoder
from dualpath.readability.engine import text_engine
from dualpath.readability.features import FeatureCounter, WordLists

N_TEXTS = int(os.environ.get("DUALPATH_RANDOM_TEXTS", 2_000))
RATIO_TOLERANCE = 1e-6
RAPIDS = FakeDevice().rapids()
TEXTS = [
    "plain words.",
    "\u0301",
    "two\n\n\nlines!",
    "x" * 101 + " " + "y" * 100,
    "word " * 1021,
    "[SEP] 你好\u200b😀",
    "a",
]


@pytest.fixture(scope="module")
def files(model_repository):
    return (model_repository / "bert-large/1/tokenizer.json", model_repository / "cuml/1/word_lists.json")


@pytest.fixture(scope="module")
def lists(files):
    return WordLists.load(files[1])


def batches(texts):
    return [texts[start : start + MAX_BATCH_SIZE] for start in range(0, len(texts), MAX_BATCH_SIZE)]


def test_features_equal_the_cpus_on_random_texts_of_all_characters(lists):
    texts = random_texts(N_TEXTS, seed=1, listed=(*lists.most, *lists.least), any_character=True)
    cpu, gpu = FeatureCounter(lists), DeviceFeatureCounter(lists, RAPIDS)
    for batch in batches(texts):
        counts, ratios = on_host(gpu.count(batch)), on_host(gpu.features(batch))
        assert (counts.dtype, ratios.dtype) == (np.int32, np.float32)
        np.testing.assert_array_equal(counts, cpu.count(batch))
        np.testing.assert_allclose(ratios, cpu.features(batch), rtol=0, atol=RATIO_TOLERANCE)


def test_token_ids_equal_the_hugging_face_tokenizers_on_random_texts(files):
    cpu, gpu = tokens.TokenEncoder(files[0]), DeviceTokenEncoder(files[0], RAPIDS)
    for batch in batches(random_texts(N_TEXTS, seed=2)):
        expected, got = cpu.encode(batch), gpu.encode(batch)
        assert [on_host(row).tolist() for row in got] == [row.tolist() for row in expected]
        for padded, expected_padded in zip(gpu.pad(got), tokens.pad(expected), strict=True):
            assert on_host(padded).dtype == np.int64
            np.testing.assert_array_equal(on_host(padded), expected_padded)


def test_windows_are_those_of_the_cpu(files):
    excerpts = [text.encode() for text in TEXTS]
    expected, got = (encoder.windows(excerpts) for encoder in (tokens.TokenEncoder(files[0]), a_device(files)))
    assert [len(windows) for windows in expected] == [1, 1, 1, 1, 3, 1, 1]
    assert [[on_host(row).tolist() for row in windows] for windows in got] == [
        [row.tolist() for row in windows] for windows in expected
    ]


def a_device(files):
    return DeviceTokenEncoder(files[0], RAPIDS)


@pytest.mark.parametrize("text", TEXTS)
def test_a_batch_of_one_is_as_good_as_any(files, lists, text):
    excerpts = [text.encode()]
    [row], [expected] = a_device(files).encode(excerpts), tokens.TokenEncoder(files[0]).encode(excerpts)
    assert on_host(row).tolist() == expected.tolist()
    counts = on_host(DeviceFeatureCounter(lists, RAPIDS).count(excerpts))
    assert counts.tolist() == FeatureCounter(lists).count(excerpts).tolist()


def test_a_tokenizer_that_cudf_cannot_follow_is_refused(tmp_path, files):
    for old, new, message in [
        ('"BertNormalizer"', '"Lowercase"', r"expected BERT's WordPiece tokenizer, got Lowercase, BertPreTokenizer"),
        ('"[unused0]": 1,', '"[unused0]": 40000,', r"expected ids from 0 on, as cuDF has them, got a gap"),
        ('"clean_text": true', '"clean_text": false', "expected clean_text True, as cuDF has it, got False"),
        ('"handle_chinese_chars": true', '"handle_chinese_chars": false', "expected handle_chinese_chars True"),
        ('"strip_accents": null', '"strip_accents": false', "expected strip_accents True, as cuDF has it, got False"),
        ('"continuing_subword_prefix": "##"', '"continuing_subword_prefix": "@@"', "prefix '##', .* got '@@'"),
    ]:
        changed = tmp_path / "tokenizer.json"
        text = files[0].read_text()
        assert old in text
        changed.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            DeviceTokenEncoder(changed, RAPIDS)


def test_a_tokenizer_that_keeps_case_and_accents_is_followed_too(tmp_path, files):
    cased = tmp_path / "tokenizer.json"
    cased.write_text(files[0].read_text().replace('"lowercase": true', '"lowercase": false'))
    excerpts = random_texts(500, seed=5)
    expected, got = (encoder.encode(excerpts) for encoder in (tokens.TokenEncoder(cased), a_device([cased])))
    assert [on_host(row).tolist() for row in got] == [row.tolist() for row in expected]
    assert [row.tolist() for row in expected] != [
        row.tolist() for row in tokens.TokenEncoder(files[0]).encode(excerpts)
    ]


def test_the_engine_follows_the_instances_device(files, monkeypatch):
    monkeypatch.setattr(device, "load_rapids", lambda: RAPIDS)
    excerpts = [b"One excerpt.", b"And another one, longer!"]
    on_cpu, on_gpu = text_engine(None, *files), text_engine(0, *files)
    assert (on_cpu.slice_rows, on_gpu.slice_rows) == (8, MAX_BATCH_SIZE)
    for make in (lambda e: e.features(excerpts), *(lambda e, i=i: e.pad(e.tokens(excerpts))[i] for i in (0, 1))):
        assert isinstance(make(on_cpu), np.ndarray)
        assert not isinstance(make(on_gpu), np.ndarray)
        np.testing.assert_array_equal(on_host(make(on_gpu)), make(on_cpu))
