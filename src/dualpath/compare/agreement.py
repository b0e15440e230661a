"""Do answers agree? Each is compared with the baseline's answer to the row alone, whatever it was asked with.

Answers go in, findings come out: `parity` asks the models, and a load keeps its answers for a LoadCheck.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.connection import reason
from dualpath.compare.load import Contender
from dualpath.compare.result import Parity, WorstRow
from dualpath.compare.tolerance import Tolerance

N_WORST = 5
ALONE = "alone"
_MAX_KEPT = 256 * 2**20
"""Bytes of answers that a turn keeps."""
MAX_CHECKED_S = 0.5
"""How long the answers of a turn are checked."""

Array = npt.NDArray[Any]
Answer = Mapping[str, Array]
"""Outputs by name: of one row without a batch dimension, of a request with it, if the model has one."""

Excuse = Callable[[int, Answer, Answer], bool]
"""Whether a row may differ: its number, the baseline's answer and the other's."""


@dataclass
class _Tally:
    """One output of one contender."""

    rows: set[int] = field(default_factory=set)
    unequal: set[int] = field(default_factory=set)
    differences: list[float] = field(default_factory=list)
    n_answers: int = 0
    beyond: Counter[str] = field(default_factory=Counter)  # by how the row was asked
    worst: list[WorstRow] = field(default_factory=list)

    def note(self, row: WorstRow) -> None:
        kept = sorted([*self.worst, row], key=_by_difference, reverse=True)
        seen: set[str] = set()  # one line a row: its worst
        self.worst = [it for it in kept if it.where not in seen and not seen.add(it.where)][:N_WORST]  # type: ignore[func-returns-value]


class Agreement:
    """What was found about the answers of a baseline and another contender.

    Args:
        names: of the baseline and the other.
        rows: where each row stands.
        tolerances: by output, of those that are compared.
        has_batches: whether the contenders' answers have a batch dimension, the baseline's first.
        excuse: rows that are meant to differ.
    """

    def __init__(
        self,
        names: tuple[str, str],
        rows: Sequence[str],
        tolerances: Mapping[str, Tolerance],
        has_batches: tuple[bool, bool] = (True, True),
        excuse: Excuse = lambda row, baseline, other: False,
    ) -> None:
        self._names, self._rows, self._tolerances, self._excuse = names, rows, tolerances, excuse
        self._has_batches = dict(zip(names, has_batches, strict=True))
        self._alone: dict[int, dict[str, Array]] = {}
        self._usual: dict[str, Array | float] = {}
        self._by_bytes: dict[bytes, int] = {}
        self._tallies = {(name, output): _Tally() for name in names for output in tolerances}
        self.n_excused = 0

    def learn(self, row: int, answer: Answer) -> None:
        """Take the baseline's answer to a request of this row alone."""
        split = self._split(self._names[0], answer, 1)
        self._alone[row] = {
            name: array if isinstance(array, np.ndarray) else answer[name] for name, (array,) in split.items()
        }
        self._by_bytes.setdefault(self._bytes(self._alone[row]), row)
        self._usual.clear()

    def judge(self, name: str, rows: Sequence[int], answer: Answer, way: str = ALONE) -> None:
        """Compare a contender's answer to a request of these rows; rows that the baseline did not answer are left out.

        Args:
            way: what the rows were asked in, such as "in a batch of 4".
        """
        split = self._split(name, answer, len(rows))
        for position, row in enumerate(rows):
            if (expected := self._alone.get(row)) is None:
                continue
            got = {output: parts[position] for output, parts in split.items()}
            arrays = {output: it for output, it in got.items() if isinstance(it, np.ndarray)}
            if name == self._names[1] and self._excuse(row, expected, arrays):
                self.n_excused += 1
                continue
            place = "" if way == ALONE else way
            if len(rows) > 1:
                place = f"{way}, position {position}"
            taken = self._taken_from(row, expected, arrays, rows)
            for output in self._tolerances:
                self._compare(name, output, row, expected.get(output), got.get(output), way, place + taken)

    def parities(self) -> list[Parity]:
        """Return what was found: first a baseline that contradicts itself, then each output of the other."""
        own, other = ([self._parity(name, output) for output in self._tolerances] for name in self._names)
        return [parity for parity in own if not parity.ok] + other

    def _split(self, name: str, answer: Answer, n_rows: int) -> dict[str, list[Array | str]]:
        """Return each output's parts by row, or what is wrong with its shape in their place."""
        split: dict[str, list[Array | str]] = {}
        for output, array in answer.items():
            if not self._has_batches[name]:
                split[output] = [array] * n_rows
            elif array.ndim and len(array) == n_rows:
                split[output] = list(array) if array.ndim > 1 else [array[i : i + 1].reshape(()) for i in range(n_rows)]
            else:
                split[output] = [f"shape {list(array.shape)} for {n_rows} row{'s' * (n_rows != 1)}"] * n_rows
        return split

    def _compare(
        self, name: str, output: str, row: int, a: Array | None, b: Array | str | None, way: str, place: str
    ) -> None:
        tally, where = self._tallies[name, output], self._rows[row]
        if a is None and b is None:
            return
        tally.rows.add(row)
        tally.n_answers += 1
        said = _form(a, b)
        if said is not None:
            tally.unequal.add(row)
            tally.beyond[way] += 1
            tally.differences.append(float("nan"))
            tally.note(WorstRow(where, said[0], said[1], float("nan"), place))
            return
        assert isinstance(a, np.ndarray)
        assert isinstance(b, np.ndarray)
        if _same_bits(a, b):
            tally.differences.append(0.0)
            return
        tally.unequal.add(row)
        worst, is_beyond = self._difference(output, where, a, b, place)
        tally.differences.append(worst.difference)
        tally.beyond[way] += is_beyond
        if is_beyond or worst.difference:
            tally.note(worst)

    def _difference(self, output: str, where: str, a: Array, b: Array, place: str) -> tuple[WorstRow, bool]:
        """Return the element that is furthest beyond its tolerance, and whether any is."""
        if a.dtype.kind == "O":
            at = int(np.flatnonzero(a.ravel() != b.ravel())[0])
            return WorstRow(where, _text(a.flat[at]), _text(b.flat[at]), 1.0, place), True
        usual = self._usual_size(output)
        # An answer of another shape than most has sizes of its own only.
        usual = usual if not isinstance(usual, np.ndarray) or usual.shape == a.shape else 0.0
        wide_a, wide_b = a.astype(np.longdouble).ravel(), b.astype(np.longdouble).ravel()  # every int64 is exact
        allowed = self._tolerances[output].allowed(wide_a, np.broadcast_to(usual, a.shape).ravel())
        with np.errstate(invalid="ignore"):
            apart = np.abs(wide_a - wide_b)
        apart[(wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))] = 0
        over = np.where(np.isnan(apart), np.inf, apart) - allowed
        beyond = over > 0
        at = int(np.argmax(np.where(beyond, over, -1) if beyond.any() else np.nan_to_num(apart)))
        plain = float if a.dtype.kind == "f" else int
        return WorstRow(where, plain(wide_a[at]), plain(wide_b[at]), float(apart[at]), place), bool(beyond.any())

    def _usual_size(self, output: str) -> Array | float:
        """Return the median size of each element over the baseline's answers; 0 if their shapes vary."""
        if not self._usual:
            for name in self._tolerances:
                arrays = [it[name] for it in self._alone.values() if name in it and it[name].dtype.kind in "fiub"]
                alike = arrays and len({array.shape for array in arrays}) == 1
                with np.errstate(invalid="ignore"):
                    sizes = np.median(np.abs(np.stack(arrays).astype(np.float64)), axis=0) if alike else 0.0
                self._usual[name] = np.nan_to_num(np.asarray(sizes), posinf=0.0)
        return self._usual[output]

    def _taken_from(self, row: int, expected: Answer, got: Answer, rows: Sequence[int]) -> str:
        """Say which other row a wrong answer is the right one to, "" if to none."""
        wanted, found = self._bytes(expected), self._bytes(got)
        if found == wanted or (other := self._by_bytes.get(found)) is None:
            return ""
        at = f", at position {rows.index(other)}" if other in rows else ", of another request"
        return f"; it is the answer to {self._rows[other]}{at}" if other != row else ""

    def _bytes(self, answer: Answer) -> bytes:
        parts = [
            b"%s=%s" % (name.encode(), _raw(array))
            for name, array in sorted(answer.items())
            if name in self._tolerances
        ]
        return b";".join(parts)

    def _parity(self, name: str, output: str) -> Parity:
        tally, tolerance = self._tallies[name, output], self._tolerances[output]
        differences = np.array(tally.differences or [0.0])
        finite = differences[np.isfinite(differences)]
        return Parity(
            baseline=self._names[0],
            other=name,
            output=output,
            n_rows=len(tally.rows),
            n_equal=len(tally.rows - tally.unequal),
            largest=float(differences.max()),  # NaN, if there is one
            mean=float(finite.mean()) if len(finite) else float("nan"),
            tolerance=str(tolerance),
            atol=tolerance.atol,
            n_answers=tally.n_answers,
            beyond={way: n for way, n in tally.beyond.items() if n},
            worst=tuple(tally.worst),
        )


class LoadCheck:
    """Keeps the answers of a contender's turn, and judges them after it, so that the turn itself costs no time.

    An answer that is the same to the byte as an earlier one to the same request is not judged again.

    Attributes:
        unreadable: for each contender why the first answer that could not be decoded could not be.
    """

    def __init__(self, agreement: Agreement, decode: Callable[[str, Any], Answer]) -> None:
        self._agreement, self._decode = agreement, decode
        self._fresh: list[tuple[int, Any]] = []
        self._size = 0
        self._known: dict[tuple[str, int], set[tuple[int, Any]]] = {}
        self.n_answers = self.n_checked = 0
        self.unreadable: dict[str, str] = {}

    def keep(self, answered: tuple[int, Any]) -> None:
        """Take an answer with the number of its request."""
        self.n_answers += 1
        if self._size < _MAX_KEPT:
            self._size += len(answered[1]) if isinstance(answered[1], bytes) else sum(map(len, answered[1]))
            self._fresh.append(answered)

    def settle(self, contender: Contender, way: str) -> None:
        """Judge what the turn kept, as far as there is time."""
        known = self._known.setdefault((contender.name, contender.n_rows), set())
        end = time.perf_counter() + MAX_CHECKED_S
        for answered in self._fresh:
            if answered not in known:
                if time.perf_counter() > end:
                    continue
                known.add(answered)
                try:
                    answer = self._decode(contender.name, answered[1])
                except (ValueError, KeyError) as error:
                    self.unreadable.setdefault(contender.name, reason(error))
                else:
                    self._agreement.judge(contender.name, contender.rows[answered[0]], answer, way)
            self.n_checked += 1
        self._fresh, self._size = [], 0

    def __str__(self) -> str:
        if self.n_checked == self.n_answers:
            return f"all {self.n_answers:,} checked"
        return f"{self.n_checked:,} of {self.n_answers:,} checked ({self.n_checked / self.n_answers:.0%})"


def _form(a: Array | None, b: Array | str | None) -> tuple[str, str] | None:
    """Return how the form of two answers differs, or None."""
    if a is None or b is None:
        return ("no output", "an output") if a is None else ("an output", "no output")
    if isinstance(b, str):
        return f"shape {list(a.shape)} a row", b
    if a.dtype != b.dtype:
        return f"type {a.dtype}", f"type {b.dtype}"
    return None if a.shape == b.shape else (f"shape {list(a.shape)}", f"shape {list(b.shape)}")


def _same_bits(a: Array, b: Array) -> bool:
    return bool((a == b).all()) if a.dtype.kind == "O" else a.tobytes() == b.tobytes()


def _raw(array: Array) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()


def _text(value: Any) -> str:
    """Return a text as it is, in quotes if its ends would not show."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if text and text.strip() == text else repr(text)


def _by_difference(row: WorstRow) -> float:
    return row.difference if row.difference == row.difference else float("inf")
