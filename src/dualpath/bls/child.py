"""Call another model of the same server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from dualpath.bls.errors import ChildFailed, ChildLate, ChildUnavailable
from dualpath.bls.request import Request

# All of a child's errors arrive as INTERNAL; only their words tell that it is not there.
_UNAVAILABLE = ("is not found", "is not ready", "is not healthy", "unhealthy", "unloading", "unavailable")


class Child:
    """A model that this one calls.

    Args:
        name: the model's name on this server.
        output: the output to ask for. It arrives on the CPU wherever the child runs: it is small here.
        version: a version of the model; -1 lets Triton's version policy choose.
    """

    def __init__(self, name: str, output: str, version: int = -1) -> None:
        self.name = name
        self._output = output
        self._version = version
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    async def call(self, inputs: Mapping[str, Any], trace: Any = None) -> npt.NDArray[Any]:
        """Run the child once and return its output.

        Args:
            inputs: arrays by input name, on any device, passed without a copy here.
            trace: a `Request.trace`, which makes the call a step of it.
        Raises:
            ChildUnavailable: the child is not there.
            ChildFailed: it answered with an error.
        """
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=self._version,
            inputs=[_wrap(name, array) for name, array in inputs.items()],
            requested_output_names=[self._output],
            preferred_memory=self._memory,
            trace=trace,
        )
        try:
            response = await request.async_exec()
        except pb_utils.TritonModelException as error:
            raise self._failure(str(error)) from error
        if response.has_error():
            raise self._failure(response.error().message())
        [tensor] = response.output_tensors()
        return np.from_dlpack(tensor)

    def _failure(self, message: str) -> ChildFailed:
        kind = ChildUnavailable if any(words in message for words in _UNAVAILABLE) else ChildFailed
        return kind(f"{self.name}: {message}")


class MergingChild(Child):
    """A child whose rows, of whichever request, wait only while it is busy, and then leave together.

    Busy means: as many calls in flight as `in_flight`. When a call comes back, the next chunk leaves: the row that has
    waited longest, so that none starves, and those nearest to it in length among the next in line, so that padding is
    small. A chunk that fails is tried again, each request's rows by themselves, unless the child is not there.

    Args:
        name, output, version: as for `Child`.
        collate: turns a chunk's rows into inputs by name, padding them to one length where they need it.
        in_flight: calls at a time: as many as the child has instances.
        chunk_rows: rows in a call, at most.
        length: a row's length.
        slow: whether requests that wait for this child are answered later, so that they do not keep `execute`.
    """

    def __init__(
        self,
        name: str,
        output: str,
        collate: Callable[[Sequence[Any]], Mapping[str, Any]],
        *,
        in_flight: int,
        chunk_rows: int,
        length: Callable[[Any], int] = len,
        slow: bool = False,
        version: int = -1,
    ) -> None:
        super().__init__(name, output, version)
        self._collate = collate
        self._n_free = in_flight
        self._chunk_rows = chunk_rows
        self._length = length
        self._slow = slow
        self._waiting: deque[_Row] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def rows(self, request: Request, rows: Sequence[Any]) -> npt.NDArray[Any]:
        """Have one request's rows answered: as many rows of the child's output, in order.

        Raises:
            ChildFailed: the child failed with these rows, or is not there.
            ChildLate: the request's timeout ended first.
        """
        if self._slow:
            request.answer_later()
        loop = asyncio.get_running_loop()
        group = _Group(request, len(rows), loop.create_future())
        self._waiting.extend(_Row(row, self._length(row), index, group) for index, row in enumerate(rows))
        loop.call_soon(self._dispatch)  # after all requests that arrived with this one have brought their rows
        try:
            async with asyncio.timeout_at(request.deadline):  # the loop's clock is time.monotonic
                return np.stack(await group.answer)
        except TimeoutError:
            raise ChildLate(f"{self.name}: no answer within the request's timeout") from None

    def _dispatch(self) -> None:
        while self._n_free and (chunk := self._take()):
            self._n_free -= 1
            call = asyncio.get_running_loop().create_task(self._run(chunk))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _take(self) -> list[_Row]:
        while self._waiting and self._waiting[0].group.answer.done():
            self._waiting.popleft()
        if not self._waiting:
            return []
        oldest = self._waiting[0]
        candidates = [row for row in self._waiting if not row.group.answer.done()]
        if len(candidates) > self._chunk_rows:
            window = candidates[: WINDOW_CHUNKS * self._chunk_rows]
            nearest = sorted(window, key=lambda row: abs(row.length - oldest.length))
            candidates = sorted(nearest[: self._chunk_rows], key=lambda row: row.length)
        taken = set(map(id, candidates))
        self._waiting = deque(row for row in self._waiting if id(row) not in taken)
        return candidates

    async def _run(self, chunk: list[_Row]) -> None:
        try:
            await self._answer(chunk)
        finally:
            self._n_free += 1
            self._dispatch()

    async def _answer(self, chunk: list[_Row]) -> None:
        groups = list(dict.fromkeys(row.group for row in chunk))
        try:
            answers = await self.call(self._collate([row.row for row in chunk]), groups[0].request.trace)
        except Exception as error:
            if len(groups) == 1 or isinstance(error, ChildUnavailable):
                for group in groups:
                    group.fail(error)
                return
            for group in groups:
                await self._answer([row for row in chunk if row.group is group])
            return
        for row, answer in zip(chunk, answers, strict=True):
            row.group.fill(row.index, answer)


WINDOW_CHUNKS = 4
"""How many chunks' worth of waiting rows a chunk is chosen from: more means less padding, and longer waits."""


class _Group:
    """The rows of one request that wait for one child."""

    def __init__(self, request: Request, n_rows: int, answer: asyncio.Future[list[Any]]) -> None:
        self.request = request
        self.answer = answer
        self._rows: list[Any] = [None] * n_rows
        self._n_open = n_rows

    def fill(self, index: int, row: Any) -> None:
        self._rows[index] = row
        self._n_open -= 1
        if self._n_open == 0 and not self.answer.done():
            self.answer.set_result(self._rows)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Row:
    __slots__ = ("group", "index", "length", "row")

    def __init__(self, row: Any, length: int, index: int, group: _Group) -> None:
        self.row, self.length, self.index, self.group = row, length, index, group


def _wrap(name: str, array: Any) -> Any:
    """Make a Triton tensor of an array on any device, without a copy.

    NumPy arrays are shared by reference: release 24.10 would copy the memory that a CPU capsule points to, and Python
    would log an error for every capsule, since Triton gives them a name that NumPy does not know.
    """
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, array)
