"""Do two models give the same answers? Every input goes through both, each in a request of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult, service_pb2

from dualpath.compare.connection import over_grpc, reason
from dualpath.compare.inputs import Row
from dualpath.compare.load import run
from dualpath.compare.requests import request
from dualpath.compare.result import Parity, Result, WorstRow
from dualpath.compare.run import OnProgress
from dualpath.compare.target import Pair, Target
from dualpath.errors import UserError

N_WORST = 5
N_LATE = 5
"""After so many time-outs of a contender in a row, no further row is sent."""

Answer = Mapping[str, npt.NDArray[Any]]
"""A row's outputs by name."""

Ask = Callable[[Row], Awaitable[Answer]]
"""Sends one row to a model."""


class Tally:
    """One output of two models, row after row."""

    def __init__(self, baseline: str, other: str, output: str, atol: float) -> None:
        self._baseline, self._other, self._output, self._atol = baseline, other, output, atol
        self._is_text = False
        self._n_equal = 0
        self._differences: list[float] = []
        self._worst: list[WorstRow] = []

    def add(self, where: str, baseline: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
        """Compare one row."""
        self._is_text = self._is_text or baseline.dtype.kind == "O"
        self._n_equal += _same_bits(baseline, other)
        worst = _difference(where, baseline, other)
        self._differences.append(worst.difference)
        if worst.difference != 0:
            self._worst = sorted([*self._worst, worst], key=_by_difference, reverse=True)[:N_WORST]

    def parity(self) -> Parity:
        """Return what was found so far. The mean leaves out rows in which one side alone is NaN or infinite."""
        differences = np.array(self._differences or [0.0])
        finite = differences[np.isfinite(differences)]
        return Parity(
            baseline=self._baseline,
            other=self._other,
            output=self._output,
            n_rows=len(self._differences),
            n_equal=self._n_equal,
            largest=float(differences.max()),  # NaN, if there is one
            mean=float(finite.mean()) if len(finite) else float("nan"),
            atol=0.0 if self._is_text else self._atol,
            worst=tuple(self._worst),
        )


def check(
    result: Result,
    other: str,
    rows: Sequence[Row],
    connect: Callable[[], Any],
    outputs: Sequence[str],
    atol: float,
    *,
    gone: Callable[[], str | None] = lambda: None,
    on_progress: OnProgress = lambda text, fraction: None,
) -> bool:
    """Put every row through the baseline and another contender at once, and add a Parity for each output.

    The result has failed where they differ by more than `atol`, where one of them failed on a row, and where the server
    went away. After N_LATE time-outs in a row the rest is left out. On Ctrl-C it holds the rows until then, and
    KeyboardInterrupt goes on.

    Args:
        connect: `both(...)`, an asynchronous context of two Asks, the baseline's first.
        atol: the largest difference that counts as equal; of texts none does.
        gone: says why the server is gone, or None; asked after a failure.
        on_progress: called before each row is sent.
    Returns:
        Whether the server is still there.
    Raises:
        UserError: both refuse a row as invalid.
    """
    names = (result.contenders[0], other)
    tallies = {output: Tally(*names, output, atol) for output in outputs}
    failures: dict[str, list[str]] = {name: [] for name in names}
    n_late = dict.fromkeys(names, 0)  # in a row

    async def through_both() -> bool:
        async with connect() as asks:
            for number, row in enumerate(rows):
                on_progress(f"Comparing answers: {number + 1} of {len(rows)}", number / len(rows))
                answers = await asyncio.gather(*(ask(row) for ask in asks), return_exceptions=True)
                errors = {name: it for name, it in zip(names, answers, strict=True) if isinstance(it, BaseException)}
                for name in names:
                    n_late[name] = n_late[name] + 1 if isinstance(errors.get(name), TimeoutError) else 0
                if not errors:
                    for output, tally in tallies.items():
                        tally.add(row.where, answers[0][output], answers[1][output])  # type: ignore[index]
                    continue
                _refuse_invalid(row, errors)
                for name, error in errors.items():
                    failures[name].append(f"{row.where}: {reason(error)}")
                if why := gone():
                    result.notes.append(f"The server went away ({why}) at input {number + 1} of {len(rows)}.")
                    return False
                if late := [name for name in names if n_late[name] == N_LATE]:
                    times = f"{late[0]} gave none in time, {N_LATE} times in a row"
                    result.notes.append(f"Answers were compared up to input {number + 1} of {len(rows)}: {times}.")
                    break
        return True

    try:
        return run(through_both())
    except KeyboardInterrupt:
        n_rows = next(iter(tallies.values())).parity().n_rows
        result.notes.append(f"Interrupted after {n_rows} of {len(rows)} inputs.")
        raise
    finally:
        result.parity += [tally.parity() for tally in tallies.values()]
        for name, failed in failures.items():
            if failed:
                result.notes.append(f"{name} failed on {len(failed)} of {len(rows)} inputs, first on {failed[0]}")
        result.failed |= any(failures.values()) or not all(parity.ok for parity in result.parity)


@asynccontextmanager
async def both(url: str, a: Target, b: Target, pair: Pair, timeout_s: float) -> AsyncIterator[tuple[Ask, Ask]]:
    """Connect to a server for asking two of its models."""
    async with over_grpc(url) as send_a, over_grpc(url) as send_b:

        def ask(send: Callable[[Any], Awaitable[Any]], target: Target) -> Ask:
            async def ask(row: Row) -> Answer:
                async with asyncio.timeout(timeout_s):
                    answer = InferResult(
                        service_pb2.ModelInferResponse.FromString(await send(request(target, pair, [row])))
                    )
                arrays = {tensor.name: answer.as_numpy(tensor.name) for tensor in pair.outputs}
                if missing := [name for name, array in arrays.items() if array is None]:
                    raise ValueError(f"no output {missing[0]} in the answer")
                return {name: array[0] if target.max_batch_size else array for name, array in arrays.items()}

            return ask

        yield ask(send_a, a), ask(send_b, b)


def _refuse_invalid(row: Row, errors: Mapping[str, BaseException]) -> None:
    """Tell a bad row, which no model takes, from a model that fails."""
    codes = Counter(error.code() if isinstance(error, grpc.aio.AioRpcError) else None for error in errors.values())
    if codes[grpc.StatusCode.INVALID_ARGUMENT] == 2:
        raise UserError(f"{row.where}: expected a valid row, got: {reason(next(iter(errors.values())))} Leave it out.")


def _same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.dtype.kind == "O":
        return a.shape == b.shape and bool((a == b).all())
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _difference(where: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> WorstRow:
    """Return the row's largest difference; NaN if the shapes differ, or if one side alone is NaN."""
    if a.shape != b.shape:
        return WorstRow(where, f"shape {list(a.shape)}", f"shape {list(b.shape)}", float("nan"))
    if not a.size or _same_bits(a, b):
        return WorstRow(where, "", "", 0.0)
    if a.dtype.kind == "O":
        at = int(np.flatnonzero(a != b)[0])
        return WorstRow(where, a.flat[at].decode(errors="replace"), b.flat[at].decode(errors="replace"), 1.0)
    a, b = a.astype(np.longdouble).ravel(), b.astype(np.longdouble).ravel()  # in which every int64 is exact
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
    at = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    return WorstRow(where, float(a[at]), float(b[at]), float(apart[at]))


def _by_difference(row: WorstRow) -> float:
    return row.difference if row.difference == row.difference else float("inf")
