"""Sequences of requests, for models that keep state between them (sequence batching).

A sequence is asked step after step, under an id of its own: its first request carries the start flag, its last the end
flag.
"""

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from dualpath.errors import UserError

ID, START, END = "sequence_id", "sequence_start", "sequence_end"
FLAGS = (ID, START, END)
"""What a row of a file may say about its sequence; Triton's names of the request's parameters."""
LONGEST = 8
"""Steps of a sequence that nobody has marked; its length is from 1 to it."""

Sequences = Sequence[Sequence[int]]
"""The numbers of the rows, or requests, of each sequence, in their order."""

_ids = itertools.count(1 + secrets.randbits(48))  # other clients of the server have others

_BOOLS = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}


class Asked(NamedTuple):
    """The number of a request, or row; what is appended to the request; and whether its sequence goes on after it."""

    number: int
    more: bytes = b""
    goes_on: bool = False


def new_id() -> int:
    """Return the id of one more sequence."""
    return next(_ids)


def flags(sequence: int, is_start: bool, is_end: bool) -> bytes:
    """Return what makes a serialised ModelInferRequest a step of a sequence: append it."""
    request = service_pb2.ModelInferRequest()
    request.parameters[ID].int64_param = sequence
    request.parameters[START].bool_param = is_start
    request.parameters[END].bool_param = is_end
    return bytes(request.SerializeToString())


def ended(step: Asked) -> Asked:
    """Return a step as the last one of its sequence, wherever it stands in it."""
    end = service_pb2.ModelInferRequest()
    end.parameters[END].bool_param = True  # of two values the last one counts
    return Asked(step.number, step.more + end.SerializeToString())


def made_up(n_rows: int, seed: int) -> Sequences:
    """Cut rows that nobody has marked into sequences of 1 to LONGEST steps."""
    lengths = np.random.default_rng(seed).integers(1, LONGEST + 1, n_rows)
    ends = [min(int(end), n_rows) for end in itertools.accumulate(lengths)]
    bounds = itertools.pairwise([0, *dict.fromkeys(ends)])
    return [range(start, end) for start, end in bounds]


def marked(records: Sequence[tuple[str, Mapping[str, Any]]]) -> Sequences:
    """Return the sequences that the rows of a file tell of by FLAGS; empty if none has any.

    Rows of one sequence have its id, in any places; without ids they follow one another, from a start or until an end.

    Raises:
        UserError: a flag is neither true nor false.
    """
    if not any(flag in values for _, values in records for flag in FLAGS):
        return []
    found: list[list[int]] = []
    by_id: dict[str, list[int]] = {}  # those that may go on
    for number, (where, values) in enumerate(records):
        key = str(_plain(values.get(ID, "")))
        is_start, is_end = (_flag(where, values, name) for name in (START, END))
        if is_start or key not in by_id:
            by_id[key] = []
            found.append(by_id[key])
        by_id[key].append(number)
        if is_end:
            del by_id[key]
    return found


def steps(sequences: Sequences, numbers: Iterator[int]) -> Iterator[Asked]:
    """Yield a client's requests, sequence after sequence, whose numbers are counted on for ever."""
    for number in numbers:
        yield from run_sequence(sequences[number % len(sequences)])


def run_sequence(sequence: Sequence[int]) -> Iterator[Asked]:
    """Yield each step of a sequence, under a new id."""
    name, last = new_id(), len(sequence) - 1
    for place, step in enumerate(sequence):
        yield Asked(step, flags(name, place == 0, place == last), place < last)


def _flag(where: str, values: Mapping[str, Any], name: str) -> bool:
    text = str(_plain(values.get(name, ""))).strip().lower()
    if text not in _BOOLS:
        raise UserError(f"{where}: expected true or false for {name}, got {text!r}. Correct it.")
    return _BOOLS[text]


def _plain(value: Any) -> Any:
    """Return the value of perf_analyzer's [value], or a cell as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
