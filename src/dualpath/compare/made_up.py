"""Rows made up from a model's metadata, if nobody has any."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.compare.inputs import InputRows, Row
from dualpath.compare.tensors import numpy_dtype
from dualpath.errors import UserError
from dualpath.readability.contract import WEIGHT, Tensor

FREE = 8
"""A free dimension is of 1 to so many elements, the same in all rows, so that they can share a batch."""
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "höher", "als", "猫")
INTEGERS = 100
"""Integers are from 0 up to it: most stand for classes, tokens or pixels."""


class RandomRows(InputRows):
    """So many rows: floats are normal, integers from 0 to 99, texts of one to nine words, weights from 0 to 1.

    An optional input is left out of half of the rows. `shapes` are those of inputs with free dimensions, by name.
    """

    def __init__(self, n: int, seed: int = 0, shapes: Mapping[str, Sequence[int]] = {}) -> None:
        super().__init__(f"made up, seed {seed}", ())
        self._n, self._seed, self._shapes = n, seed, shapes

    def tensors(self, inputs: Sequence[Tensor], optional: Collection[str] = ()) -> list[Row]:
        """Return the rows for these inputs; UserError if a shape is not one of its input's."""
        rng = np.random.default_rng(self._seed)
        if unknown := self._shapes.keys() - {tensor.name for tensor in inputs}:
            names = ", ".join(tensor.name for tensor in inputs)
            raise UserError(f"--shape: expected one of the inputs {names}, got {min(unknown)!r}. Name another.")
        shapes = {tensor.name: self._shape(tensor, rng) for tensor in inputs}
        return [
            Row(
                f"made-up row {number}",
                {
                    tensor.name: _values(tensor, shapes[tensor.name], rng)
                    for tensor in inputs
                    if tensor.name not in optional or rng.random() < 0.5
                },
            )
            for number in range(self._n)
        ]

    def has(self, name: str) -> bool:
        return True

    def _shape(self, tensor: Tensor, rng: np.random.Generator) -> tuple[int, ...]:
        free = int(rng.integers(1, FREE + 1)) if tensor.dtype != "TYPE_STRING" and tensor.name != WEIGHT.name else 1
        shape = tuple(self._shapes.get(tensor.name, [free if size == -1 else size for size in tensor.dims]))
        if len(shape) != len(tensor.dims) or any(
            want not in (-1, size) for want, size in zip(tensor.dims, shape, strict=True)
        ):
            raise UserError(
                f"--shape: expected {tensor.name} of shape {list(tensor.dims)}, got {list(shape)}. Give another."
            )
        return shape


def _values(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    if tensor.dtype == "TYPE_STRING":
        array = np.empty(shape, np.object_)
        for index in np.ndindex(shape):
            array[index] = " ".join(rng.choice(WORDS, int(rng.integers(1, 10)))).encode()
        return array
    if tensor.name == WEIGHT.name:
        return rng.random(shape).astype(np.float32)
    dtype = numpy_dtype(tensor)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return (rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, INTEGERS, shape)).astype(dtype)
