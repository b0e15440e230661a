import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualpath.readability.features import (
    LOOK_ALIKES,
    N_BASE,
    N_COUNTS,
    STOP_WORDS,
    FeatureCounter,
    WordLists,
    canonical,
    features,
    holds_word,
    words,
)

LISTS = WordLists((*(f"w{i}" for i in range(99)), "the"), (*(f"rare{i}" for i in range(99)), "the"))
texts = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("’…“”.!? \n\t'-—AZaz\u200b\u00a0")), max_size=80
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic -- said the well-known Guide.", "dont panic said the well known guide"),
        ("“Don’t…stop”", "dont stop"),
        ("ÉCOLE", "École"),
        ("a\u200bb c\u00a0d\te\x00f", "ab c d e f"),
        ("مرحبا، كيف", "مرحبا كيف"),
        ("😀 3.14", "😀 3 14"),
        ("... -- !", ""),
    ],
)
def test_words_follow_the_definition(text, expected):
    assert b" ".join(words(canonical(text.encode()))).decode() == expected


@pytest.mark.parametrize(
    ("text", "n_words", "n_distinct", "n_marks", "n_sentences", "n_stop_words", "n_letters"),
    [
        ("The cat sat. The dog ran!", 6, 5, 2, 2, 2, 18),
        ("no end", 2, 2, 0, 1, 1, 5),
        ('"Stop!" (he said.) Why?', 4, 4, 7, 3, 2, 13),
        ("Wait... what?! 3.14 of U.S.A. debts", 9, 9, 9, 3, 3, 21),
        ("“L’été”", 1, 1, 3, 1, 0, 4),
    ],
)
def test_base_counts_are_those_counted_by_hand(
    text, n_words, n_distinct, n_marks, n_sentences, n_stop_words, n_letters
):
    counts = FeatureCounter(LISTS).count([text.encode()])[0]
    assert counts[:N_BASE].tolist() == [n_words, n_distinct, n_marks, n_sentences, n_stop_words, n_letters]


def test_listed_words_are_counted_in_their_columns_when_listed_twice_in_both():
    counts = FeatureCounter(LISTS).count([b"w1 The the rare0 w1 other"])[0, N_BASE:]
    assert {column: n for column, n in enumerate(counts.tolist()) if n} == {1: 2, 99: 2, 100: 1, 199: 2}


def test_features_are_counts_ratios_and_shares_in_order():
    counts = np.zeros((1, N_COUNTS), np.int32)
    counts[0, :N_BASE] = 10, 8, 3, 4, 6, 45
    counts[0, N_BASE] = 2
    row = features(counts)[0]
    assert row.dtype == np.float32
    assert row[:8].tolist() == [10, 8, 3, 4, 2.5, 6, 4.5, np.float32(0.2)]
    assert not row[8:].any()


@given(texts)
def test_counts_equal_a_plain_implementation_on_characters(text):
    """The hot path works on bytes; this one works on characters and follows the definition word by word."""
    table = {ord(c): ascii_ for ascii_, characters in LOOK_ALIKES.items() for c in characters}
    table |= dict.fromkeys((*range(32), 127), " ")
    canonical_text = text.translate(table)
    marks = [c for c in canonical_text if c in string.punctuation]
    lowered = "".join(c.lower() if c.isascii() else c for c in canonical_text.replace("'", ""))
    spaced = "".join(" " if c in string.punctuation else c for c in lowered)
    occurrences = Counter(word for word in spaced.split(" ") if word)
    sentences = sum(
        1 for token in canonical_text.split(" ") if token and token.rstrip("\"')]}")[-1:] in (".", "!", "?") and token
    )
    expected = [
        occurrences.total(),
        len(occurrences),
        len(marks),
        max(1, sentences),
        sum(n for word, n in occurrences.items() if word in STOP_WORDS),
        sum(n * len(word) for word, n in occurrences.items()),
    ]
    assert FeatureCounter(LISTS).count([text.encode()])[0, :N_BASE].tolist() == expected
    assert holds_word(text.encode()) == bool(occurrences)


def test_word_lists_survive_a_round_trip(tmp_path):
    (tmp_path / "lists.json").write_text(LISTS.to_json(), encoding="utf-8")
    assert WordLists.load(tmp_path / "lists.json") == LISTS


@given(texts, st.integers(1, 20))
def test_a_long_text_counted_in_pieces_has_the_same_counts(text, piece_bytes):
    counter = FeatureCounter(LISTS)
    whole = counter.count([text.encode()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualpath.readability.features.PIECE_BYTES", piece_bytes)
        assert counter.count([text.encode()]).tolist() == whole.tolist()
