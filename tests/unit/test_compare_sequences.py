"""Sequences: which rows are steps of one, what their requests carry, and how clients under load go through them."""

import asyncio
from contextlib import asynccontextmanager
from itertools import count, islice

import pytest
from tritonclient.grpc import service_pb2

from dualpath.compare import inputs, sequences
from dualpath.compare.load import Contender, run_turn
from dualpath.compare.sequences import Asked
from dualpath.errors import UserError


def flags_of(more):
    parameters = service_pb2.ModelInferRequest.FromString(more).parameters
    return (
        parameters["sequence_id"].int64_param,
        parameters["sequence_start"].bool_param,
        parameters["sequence_end"].bool_param,
    )


def test_the_first_step_starts_a_sequence_and_the_last_ends_it_under_an_id_of_its_own():
    (a, b, c), (alone,) = sequences.run_sequence([4, 5, 6]), sequences.run_sequence([9])
    assert [step.number for step in (a, b, c, alone)] == [4, 5, 6, 9]
    assert [step.goes_on for step in (a, b, c, alone)] == [True, True, False, False]
    name, *first = flags_of(a.more)
    assert first == [True, False]
    assert flags_of(b.more) == (name, False, False)
    assert flags_of(c.more) == (name, False, True)
    assert flags_of(alone.more)[1:] == (True, True)
    assert flags_of(alone.more)[0] != name


def test_flags_are_appended_to_a_serialised_request():
    request = service_pb2.ModelInferRequest(model_name="counter", raw_input_contents=[b"\1"])
    request.parameters["priority"].int64_param = 3
    found = service_pb2.ModelInferRequest.FromString(request.SerializeToString() + sequences.flags(7, True, False))
    assert (found.model_name, list(found.raw_input_contents)) == ("counter", [b"\1"])
    assert {name: it.int64_param for name, it in found.parameters.items()} == {
        "priority": 3,
        "sequence_id": 7,
        "sequence_start": 0,
        "sequence_end": 0,
    }


def test_rows_that_nobody_has_marked_are_cut_in_their_order():
    found = sequences.made_up(50, seed=3)
    assert [number for sequence in found for number in sequence] == list(range(50))
    assert {len(sequence) for sequence in found} <= set(range(1, sequences.LONGEST + 1))
    assert len(found) > 5
    assert found == sequences.made_up(50, seed=3)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([{"X": 1}, {"X": 2}], []),
        ([{"sequence_id": "a"}, {"sequence_id": "b"}, {"sequence_id": "a"}], [[0, 2], [1]]),
        ([{"sequence_start": "true"}, {}, {"sequence_start": [1]}, {}], [[0, 1], [2, 3]]),
        ([{}, {"sequence_end": True}, {}, {}], [[0, 1], [2, 3]]),
        ([{"sequence_id": 1}, {"sequence_id": 1, "sequence_end": 1}, {"sequence_id": 1}], [[0, 1], [2]]),
    ],
)
def test_a_file_may_mark_sequences(flags, expected):
    records = [(f"in.csv:{number}", it) for number, it in enumerate(flags)]
    assert sequences.marked(records) == expected


def test_a_flag_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"in\.csv:2: expected true or false for sequence_start, got 'yes'"):
        sequences.marked([("in.csv:2", {"sequence_start": "yes"})])


def test_streams_of_a_json_file_are_sequences(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('{"data": [[{"X": [1]}, {"X": [2]}], [{"X": [3]}], []]}')
    assert [list(it) for it in inputs.read(path).sequences] == [[0, 1], [2]]
    path.write_text('{"data": [{"X": [1]}, {"X": [2]}]}')
    assert inputs.read(path).sequences == []


def test_a_step_that_ends_a_sequence_early_keeps_its_place_and_id():
    first, second, _ = sequences.run_sequence([4, 5, 6])
    assert flags_of(sequences.ended(first).more) == (flags_of(first.more)[0], True, True)
    assert sequences.ended(second) == Asked(5, sequences.ended(second).more, False)


def test_each_client_is_in_one_sequence_at_a_time_and_ends_it_when_the_turn_is_over():
    made = [range(0, 3), range(3, 5), range(5, 9)]
    seen = []

    @asynccontextmanager
    async def connect(url):
        async def send(request):
            at = service_pb2.ModelInferRequest.FromString(request)
            seen.append((at.model_name, flags_of(request)))
            await asyncio.sleep(0.001)
            return b""

        yield send

    requests = [service_pb2.ModelInferRequest(model_name=str(number)).SerializeToString() for number in range(9)]
    contender = Contender("A", requests, ["all"] * 9, connect=connect, sequences=made)
    turn = asyncio.run(run_turn("", contender, 4, 0.05))
    by_id = {}
    for step, (name, *flags) in seen:
        by_id.setdefault(name, []).append((int(step), *flags))
    starts = {steps[0][0] for steps in by_id.values()}
    assert starts == {0, 3, 5}
    n_cut = 0
    for steps in by_id.values():
        whole = next(it for it in made if it[0] == steps[0][0])
        asked = whole[: len(steps)]
        n_cut += asked != whole
        assert [step for step, *_ in steps] == list(asked)
        assert [flags for _, *flags in steps] == [[number == asked[0], number == asked[-1]] for number in asked]
    assert n_cut <= 4
    assert 0 < turn.n_rows <= len(seen)


def test_a_sequence_longer_than_the_turn_is_ended_by_its_next_step_whose_answer_counts_nowhere():
    seen, kept = [], []

    @asynccontextmanager
    async def connect(url):
        async def send(request):
            seen.append(flags_of(request)[1:])
            await asyncio.sleep(0.01)
            return b""

        yield send

    contender = Contender("A", [b""] * 1000, ["all"] * 1000, connect=connect, kept=kept.append, sequences=[range(1000)])
    turn = asyncio.run(run_turn("", contender, 1, 0.05))
    assert seen[0] == (True, False)
    assert seen[-1] == (False, True)
    assert set(seen[1:-1]) == {(False, False)}
    assert turn.n_rows == len(kept) == len(seen) - 1 < 20


def test_clients_share_the_count_of_sequences():
    numbers = count()
    one, other = (sequences.steps([[0, 1], [2], [3]], numbers) for _ in range(2))
    assert [next(one).number, next(other).number, next(one).number] == [0, 2, 1]
    assert [it.number for it in islice(one, 3)] == [3, 0, 1]
    assert Asked(1).more == b""
