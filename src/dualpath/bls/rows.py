"""Send a subset of rows, scatter the answers back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def scatter(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Put the rows' values back where `mask` took them from; the other rows are NaN.

    [1., 2.] with [True, False, True] -> [1., nan, 2.]

    Args:
        values: float32, one row for each True of `mask`.
        mask: bool [rows].
    """
    scattered = np.full((len(mask), *values.shape[1:]), np.nan, values.dtype)
    scattered[mask] = values
    return scattered
