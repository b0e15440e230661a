import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from dualpath.compare.inputs import Row, read
from dualpath.compare.requests import N_REQUESTS, check_batch, contender, parse_mix, request, shuffled_batches, weighted
from dualpath.compare.target import Pair, Target
from dualpath.errors import UserError
from dualpath.readability.contract import EXCERPT, SCORE, WEIGHT, Tensor

PAIR = Pair((EXCERPT, WEIGHT), (SCORE,), 512)
MODEL = Target("orchestrator", "2", 512, PAIR.inputs, PAIR.outputs)


@pytest.fixture(scope="module")
def rows():
    return read(None).tensors(PAIR.inputs)


def decoded(raw):
    it = service_pb2.ModelInferRequest.FromString(raw)
    excerpts, weights = it.raw_input_contents
    return it, deserialize_bytes_tensor(excerpts).tolist(), np.frombuffer(weights, np.float32).tolist()


def test_a_request_names_version_and_common_outputs_and_has_a_batch_dimension(rows):
    sent, excerpts, weights = decoded(request(MODEL, PAIR, rows[:3]))
    assert (sent.model_name, sent.model_version) == ("orchestrator", "2")
    assert [output.name for output in sent.outputs] == ["SCORE"]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in sent.inputs] == [
        ("excerpt", "BYTES", [3, 1]),
        ("BERT_WEIGHT", "FP32", [3, 1]),
    ]
    assert excerpts == [row.tensors["excerpt"][0] for row in rows[:3]]
    assert weights == [0.5] * 3


def test_a_model_without_batching_gets_none(rows):
    sent, *_ = decoded(request(Target("m", "", 0, PAIR.inputs, PAIR.outputs), PAIR, rows[:1]))
    assert [list(tensor.shape) for tensor in sent.inputs] == [[1], [1]]


def test_every_row_is_asked_in_batches_and_all_models_are_asked_the_same(rows):
    asked = contender("orchestrator", MODEL, PAIR, rows, batch=3, seed=1)
    assert asked.n_rows == 3
    excerpts = [excerpt for raw in asked.requests for excerpt in decoded(raw)[1]]
    assert {*excerpts} == {row.tensors["excerpt"][0] for row in rows}
    again = contender("other", MODEL, PAIR, rows, batch=3, seed=1)
    assert again.requests == asked.requests
    assert contender("orchestrator", MODEL, PAIR, rows, batch=3, seed=2).requests != asked.requests


def test_a_mix_is_one_of_whole_requests_by_their_shares(rows):
    asked = contender("orchestrator", MODEL, PAIR, rows, 8, {0.0: 0.25, 0.7: 0.75})
    assert len(asked.requests) == len(asked.groups) == N_REQUESTS
    assert asked.groups.count("0") == N_REQUESTS / 4
    for raw, group in zip(asked.requests[:50], asked.groups, strict=False):
        assert set(decoded(raw)[2]) == {np.float32(group)}
    # Every stretch has the same work, and its order is random.
    stretches = [asked.groups[start : start + 20] for start in range(0, N_REQUESTS, 20)]
    assert {stretch.count("0") for stretch in stretches} == {5}
    assert len({tuple(stretch) for stretch in stretches}) > 40


def test_the_smallest_share_is_sent(rows):
    asked = contender("orchestrator", MODEL, PAIR, rows, 8, parse_mix("0:0.001,0.5:0.001,1:0.998"))
    assert [asked.groups.count(weight) for weight in ("0", "0.5", "1")] == [1, 1, 998]


def test_parity_is_asked_of_every_row_with_every_weight(rows):
    asked = weighted(rows, {0.0: 0.5, 0.7: 0.5})
    assert len(asked) == 2 * len(rows)
    assert asked[0].where == "built-in excerpt 'Nursery rhyme', BERT_WEIGHT 0"
    assert asked[-1].tensors["BERT_WEIGHT"].tolist() == [np.float32(0.7)]
    assert weighted(rows, None) == rows


def test_a_mix_is_read():
    assert parse_mix("0:0.5,0.7:0.5") == {0: 0.5, 0.7: 0.5}
    assert parse_mix("1:1") == {1: 1}
    assert parse_mix(" 0 : .1, 1 : .9") == {0: 0.1, 1: 0.9}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:0.5,0.7:0.4", "--mix: expected shares that add up to 1, got 0.9. Change them."),
        ("0:1,0.5:1", "--mix: expected shares that add up to 1, got 2. Change them."),
        ("2:1", "--mix: expected weights from 0 to 1, got 2. Change it."),
        ("nan:1", "--mix: expected weights from 0 to 1, got nan. Change it."),
        ("0:-1,1:2", "--mix: expected shares above 0 and up to 1, got -1 for weight 0. Change it."),
        ("0:0.5,0:0.5", "--mix: expected each weight once, got 0 twice. Add up its shares."),
        ("0:0.9999,1:0.0001", "--mix: expected shares of 0.001 or more, got 0.0001 for weight 1. Raise it."),
        ("half", "--mix: expected WEIGHT:SHARE,…, got 'half' in it. Write it like 0:0.5,0.7:0.5."),
        ("0:0.5,", "--mix: expected WEIGHT:SHARE,…, got '' in it. Write it like 0:0.5,0.7:0.5."),
        ("0:0.5:1", "--mix: expected WEIGHT:SHARE,…, got '0:0.5:1' in it. Write it like 0:0.5,0.7:0.5."),
    ],
)
def test_a_bad_mix_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        parse_mix(text)
    assert str(caught.value) == message


@given(st.text())
def test_any_text_is_a_mix_or_is_refused(text):
    try:
        mix = parse_mix(text)
    except UserError:
        return
    assert sum(mix.values()) == pytest.approx(1)


def test_a_batch_beyond_the_models_is_refused():
    check_batch(PAIR, 512)
    with pytest.raises(UserError, match="--batch: expected at most the models' 512 rows, got 513"):
        check_batch(PAIR, 513)


def test_rows_of_other_shapes_or_inputs_share_no_request():
    shapes = [3, 4, 3, 4, 3, None]
    rows = [Row(f"a:{number}", {"X": np.zeros(size)} if size else {}) for number, size in enumerate(shapes)]
    made = shuffled_batches(rows, 2, np.random.default_rng(0))
    assert all(len({shapes[number] for number in numbers}) == 1 and len(numbers) == 2 for numbers in made)
    assert {number for numbers in made for number in numbers} == {*range(6)}


def test_a_request_has_the_optional_inputs_that_its_rows_have():
    pair = Pair((Tensor("X", "TYPE_FP32", (1,)), Tensor("Y", "TYPE_FP32", (1,))), (SCORE,), 8, optional=frozenset("Y"))
    target = Target("model", "", 8, pair.inputs, pair.outputs)
    for names in (["X"], ["X", "Y"]):
        row = Row("a:1", {name: np.zeros(1, np.float32) for name in names})
        sent = service_pb2.ModelInferRequest.FromString(request(target, pair, [row, row]))
        assert [(it.name, [*it.shape]) for it in sent.inputs] == [(name, [2, 1]) for name in names]
