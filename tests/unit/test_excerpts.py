import numpy as np
import pytest

from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights


def excerpts(*rows):
    return np.array(rows, np.object_).reshape(len(rows), -1)


def test_good_rows_come_back_as_they_are():
    assert decode_excerpts(excerpts(b"one", "zwölf 😀".encode())) == [b"one", "zwölf 😀".encode()]
    assert decode_weights(np.array([[0], [0.5], [1]], np.float32)).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (excerpts(b"a", b"b", b"\xff\xfe"), "excerpt[2]: expected UTF-8 text, got byte 0xff at offset 0. Encode"),
        (excerpts(b"a", b"ok \xe2\x82"), "excerpt[1]: expected UTF-8 text, got byte 0xe2 at offset 3."),
        (
            excerpts(b"a", b""),
            "excerpt[1]: expected text with at least one word, got an empty text. Leave the row out.",
        ),
        (excerpts(b" .. "), "excerpt[0]: expected text with at least one word, got ' .. '."),
        (excerpts(b"-" * 50), f"excerpt[0]: expected text with at least one word, got '{'-' * 20}…'."),
        (np.array([[b"a", b"b"]], np.object_), "excerpt[0]: expected one excerpt in each row, got 2."),
        (np.empty((1, 0), np.object_), "excerpt[0]: expected one excerpt in each row, got none."),
        (np.array([b"a"], np.object_), "excerpt[0]: expected one excerpt in each row, got shape [1]."),
    ],
)
def test_bad_excerpts_are_named_by_row_and_reason(rows, message):
    with pytest.raises(InvalidInput) as caught:
        decode_excerpts(rows)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5], [float("nan")]], "BERT_WEIGHT[1]: expected a number from 0 to 1, got nan. Correct it."),
        ([[float("inf")]], "BERT_WEIGHT[0]: expected a number from 0 to 1, got inf. Correct it."),
        ([[0], [0], [-0.25]], "BERT_WEIGHT[2]: expected a number from 0 to 1, got -0.25. Correct it."),
        ([[1.5]], "BERT_WEIGHT[0]: expected a number from 0 to 1, got 1.5. Correct it."),
        ([[0.5, 0.5]], "BERT_WEIGHT[0]: expected one weight in each row, got 2. Send shape [rows, 1]."),
    ],
)
def test_bad_weights_are_named_by_row_and_reason(rows, message):
    with pytest.raises(InvalidInput) as caught:
        decode_weights(np.array(rows, np.float32))
    assert str(caught.value) == message
