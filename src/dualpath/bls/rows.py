"""Send a subset of a request's rows, scatter the answers back; work through many rows in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.errors import ChildError
from dualpath.bls.run import at_work_on, current_run, fork
from dualpath.bls.tensors import Array

NAN = np.float32("nan")


async def route(
    rows: Sequence[Any], mask: npt.NDArray[np.bool_], ask: Callable[[Any], Awaitable[Any]], fill: Any = NAN
) -> Any:
    """Ask for the rows where `mask` is True; the others hold `fill`. No row, no call.

    ["a", "b", "c"] with [True, False, True], answered with [1., 2.] -> [1., nan, 2.]

    Args:
        rows: the request's rows: an array, or any sequence.
        mask: bool [rows].
        ask: gets the chosen rows, in the same form; returns an array of as many rows, or several by name.
        fill: one row's value: a number, a string, or an array of a row's shape; by name if `ask` returns several. Its
            dtype is the answer's, if it has one; a Python number takes the answer's.
    Raises:
        ValueError: the answer has another number of rows, or rows of another shape or dtype than `fill`.
    """
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != (len(rows),):
        raise ValueError(f"mask: expected bool [{len(rows)}], got {mask.dtype} {list(mask.shape)}.")
    n_chosen = int(np.count_nonzero(mask))
    if not n_chosen:
        return _each(fill, lambda value: _filled(len(rows), value))
    if n_chosen == len(rows):  # the usual case of small requests
        answers = await ask(rows)
        return _each(answers, lambda given, value: _checked(given, n_chosen, value), fill)
    chosen = rows[mask] if hasattr(rows, "dtype") else list(compress(rows, mask))  # type: ignore[call-overload]
    with at_work_on(mask):
        answers = await ask(chosen)
    return _each(answers, lambda given, value: _scattered(_checked(given, n_chosen, value), mask, value), fill)


def _each(values: Any, function: Callable[..., Any], others: Any = None) -> Any:
    """Apply a function to one value, or to each of several by name."""
    if not isinstance(values, Mapping):
        if isinstance(others, Mapping):
            raise ValueError(
                f"fill: expected one value, as the answer is one array, got {', '.join(others)}. Pass one."
            )
        return function(values) if others is None else function(values, others)
    if others is None:
        return {name: function(value) for name, value in values.items()}
    if not isinstance(others, Mapping) or others.keys() != values.keys():
        got = ", ".join(others) if isinstance(others, Mapping) else repr(others)
        raise ValueError(f"fill: expected a value for each of {', '.join(values)}, got {got}. Pass them by name.")
    return {name: function(value, others[name]) for name, value in values.items()}


def _filled(n_rows: int, fill: Any) -> Array:
    value = _as_value(fill)
    filled = np.empty((n_rows, *value.shape), np.float32 if isinstance(fill, float) else value.dtype)
    filled[:] = value
    return filled


def _as_value(fill: Any) -> Array:
    if isinstance(fill, (bytes, str)):  # else NumPy would make it as wide as it is
        value = np.empty((), np.object_)
        value[()] = fill
        return value
    return np.asarray(fill)


def _checked(given: Array, n_rows: int, fill: Any) -> Array:
    if len(given) != n_rows:  # NumPy would spread one answer over all
        raise ValueError(f"answer: expected {n_rows} rows, got {len(given)}. Return one for each.")
    value = _as_value(fill)
    if given.shape[1:] != value.shape:
        raise ValueError(
            f"fill: expected the shape of an answer's row, {list(given.shape[1:])}, got {list(value.shape)}. "
            "Pass fill=, or give the answer that shape."
        )
    is_typed = isinstance(fill, (np.ndarray, np.generic))
    if value.dtype != given.dtype and (is_typed or not _fits(value, given.dtype)):
        raise ValueError(f"fill: expected {given.dtype}, as the answer, got {fill!r}. Pass fill=.")
    return given


def _fits(value: Array, dtype: np.dtype[Any]) -> bool:
    if (value.dtype == np.object_) != (dtype == np.object_):
        return False
    with np.errstate(all="ignore"):
        cast = value.astype(dtype)
    return dtype.kind == "f" or bool((cast == value).all())


def _scattered(given: Array, mask: npt.NDArray[np.bool_], fill: Any) -> Array:
    scattered: Array = np.empty((len(mask), *given.shape[1:]), given.dtype, like=given)
    scattered[:] = _as_value(fill) if isinstance(given, np.ndarray) else np.asarray(_as_value(fill), like=given)
    scattered[np.asarray(mask, like=given)] = given
    return scattered


async def together(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await all at once and return their results; if one fails, cancel the others, await their end, raise its error.

    Name first the child that takes longest: its call begins before the others are prepared. While `execute` waits, an
    error of another is raised once that call has come back.
    """
    run = current_run()
    if not awaitables:
        return []
    if run is not None and run.inline:
        return await fork(awaitables)
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        if unfinished := [task for task in tasks if not task.done()]:
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)


async def tolerate(
    answer: Awaitable[Any], *, unavailable: bool = False, failed: bool = False, late: bool = False
) -> tuple[Any, None] | tuple[None, str]:
    """Await a child's answer, and do without it if that is allowed.

    Args:
        unavailable: whether the child may be out of reach.
        failed: whether it may answer with an error.
        late: whether it may miss the request's timeout.
    Returns:
        The answer and None; or None and what happened to the child: "unavailable", "failed" or "late".
    """
    try:
        return await answer, None
    except ChildError as error:
        if not {"unavailable": unavailable, "failed": failed, "late": late}[error.kind]:
            raise
        return None, error.kind


async def in_slices(
    function: Callable[[Sequence[Any]], Sequence[Any]], rows: Sequence[Any], max_rows: int, max_bytes: int = 65_536
) -> list[Any]:
    """Apply `function` to a few rows at a time, letting other requests in between; return all its rows.

    Args:
        function: gets rows, returns as many. It may be any that depends on its rows alone.
        max_rows, max_bytes: of a slice; a longer row is a slice by itself.
    """
    run = current_run()
    known = run.memo.recall(function, rows) if run is not None else None
    if run is not None and run.inline:  # few rows, and nobody to let in between
        results = known or list(function(rows))
        run.memo.note(function, rows, results)
        return results
    if known:
        return known
    results = []
    for start, stop in _slices(rows, max_rows, max_bytes):
        if start:
            await asyncio.sleep(0)
        results.extend(function(rows[start:stop]))
    return results


def _slices(rows: Sequence[Any], max_rows: int, max_bytes: int) -> list[tuple[int, int]]:
    slices, start, n_bytes = [], 0, 0
    for index, row in enumerate(rows):
        size = getattr(row, "nbytes", None) or (len(row) if isinstance(row, (bytes, str)) else 0)
        if index > start and (index - start >= max_rows or n_bytes + size > max_bytes):
            slices.append((start, index))
            start, n_bytes = index, 0
        n_bytes += size
    if len(rows):
        slices.append((start, len(rows)))
    return slices
