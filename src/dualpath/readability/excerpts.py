"""What a caller sends: excerpts and weights, checked row by row."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.readability.contract import EXCERPT, WEIGHT
from dualpath.readability.features import holds_word


class InvalidInput(ValueError):
    """The caller's fault. The message names the published tensor and the row: `excerpt[2]: expected ..., got ...`."""


def decode_excerpts(array: npt.NDArray[np.object_]) -> list[bytes]:
    """Check excerpts as Triton gives them.

    Args:
        array: UTF-8 bytes [rows, 1].
    Returns:
        One excerpt per row, UTF-8, each with at least one word.
    Raises:
        InvalidInput: a row holds no excerpt or several, is not UTF-8, or holds no word.
    """
    excerpts: list[bytes] = _one_per_row(array, EXCERPT.name, "excerpt").tolist()
    for row, excerpt in enumerate(excerpts):
        check_excerpt(excerpt, f"{EXCERPT.name}[{row}]")
    return excerpts


def check_excerpt(excerpt: bytes, where: str) -> None:
    """Raise InvalidInput, which begins with `where`, unless `excerpt` is UTF-8 with at least one word."""
    try:
        if not excerpt.isascii():
            excerpt.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where}: expected UTF-8 text, got byte 0x{excerpt[error.start]:02x} at offset {error.start}. "
            "Encode the text as UTF-8."
        ) from None
    if not holds_word(excerpt):
        raise InvalidInput(
            f"{where}: expected text with at least one word, got {_shown(excerpt.decode())}. Leave the row out."
        )


def decode_weights(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Check weights as Triton gives them: float32 [rows, 1] -> float32 [rows] on the host, each within [0, 1].

    Args:
        array: NumPy's, or CuPy's if a caller sent the weights in a GPU's memory.

    Raises:
        InvalidInput: a row holds no weight or several, or one that is NaN, infinite or outside [0, 1].
    """
    on_host = array if isinstance(array, np.ndarray) else array.get()
    weights: npt.NDArray[np.float32] = _one_per_row(on_host, WEIGHT.name, "weight")
    bad = ~((weights >= 0) & (weights <= 1))  # NaN fails both comparisons
    if bad.any():
        row = int(bad.argmax())
        check_weight(float(weights[row]), f"{WEIGHT.name}[{row}]")
    return weights


def check_weight(weight: float, where: str) -> None:
    """Raise InvalidInput, which begins with `where`, unless 0 <= weight <= 1."""
    if not 0 <= weight <= 1:
        raise InvalidInput(f"{where}: expected a number from 0 to 1, got {weight:g}. Correct it.")


def _one_per_row(array: npt.NDArray[Any], name: str, what: str) -> npt.NDArray[Any]:
    if array.ndim != 2 or array.shape[1] != 1:
        got = f"shape {list(array.shape)}" if array.ndim != 2 else array.shape[1] or "none"
        raise InvalidInput(f"{name}[0]: expected one {what} in each row, got {got}. Send shape [rows, 1].")
    return array[:, 0]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 20 else text[:20] + "…") if text else "an empty text"
