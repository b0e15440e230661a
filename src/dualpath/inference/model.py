"""What a loaded model is, and what it takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from dualpath.errors import UserError

Array = npt.NDArray[Any]


class EngineError(UserError):
    """No engine can run the model."""


class Input(NamedTuple):
    """An input of a model: NumPy's name of its dtype, and its shape with -1 for what varies, the rows included."""

    dtype: str
    shape: tuple[int, ...]


class LoadedModel(Protocol):
    """A loaded model. Any thread may run it; more calls at a time than it has streams wait for one another.

    Attributes:
        engine: what runs it, for people: "OpenVINO 2026.4.1 in float32".
        reason: why it is not OpenVINO although that was possible; None if it is, or was not asked for.
        is_exact: whether a row's answer is the same to the last bit, whatever rows and padding stand beside it, and
            whatever number of threads computes it.
    """

    engine: str
    reason: str | None
    is_exact: bool

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the model's outputs: arrays of their own."""
