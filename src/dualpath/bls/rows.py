"""Send a subset of a request's rows, scatter the answers back; work through many rows in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.errors import ChildFailed, ChildLate

Scores = npt.NDArray[np.float32]


async def route(
    rows: Sequence[Any], mask: npt.NDArray[np.bool_], ask: Callable[[list[Any]], Awaitable[Scores]]
) -> Scores:
    """Ask for the rows where `mask` is True; the others are NaN. No row, no call.

    ["a", "b", "c"] with [True, False, True], answered with [1., 2.] -> [1., nan, 2.]

    Args:
        rows: the request's rows.
        mask: bool [rows].
        ask: gets the chosen rows, returns float32 [chosen rows].
    """
    answers = np.full(len(rows), np.nan, np.float32)
    if mask.any():
        chosen = list(compress(rows, mask))
        given = await ask(chosen)
        if len(given) != len(chosen):  # NumPy would spread one answer over all
            raise ValueError(f"expected {len(chosen)} rows in the answer, got {len(given)}.")
        answers[mask] = given
    return answers


async def together(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await all at once and return their results; when one fails, cancel the others and raise its error."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def excuse(
    answer: Awaitable[Any], *, failed: bool = False, late: bool = False
) -> tuple[Any, None] | tuple[None, str]:
    """Await a child's answer, and do without where that is allowed.

    Args:
        failed: whether the child may fail or be missing.
        late: whether it may miss the request's timeout.
    Returns:
        The answer and None; or None and what is wrong with the child: "unavailable" or "late".
    """
    try:
        return await answer, None
    except ChildFailed as error:
        is_late = isinstance(error, ChildLate)
        if not (late if is_late else failed):
            raise
        return None, "late" if is_late else "unavailable"


async def in_slices(function: Callable[[Sequence[Any]], Sequence[Any]], rows: Sequence[Any], n_rows: int) -> list[Any]:
    """Apply `function` to `n_rows` rows at a time, letting other requests in between; return all its rows."""
    results: list[Any] = []
    for start in range(0, len(rows), n_rows):
        if start:
            await asyncio.sleep(0)
        results.extend(function(rows[start : start + n_rows]))
    return results
