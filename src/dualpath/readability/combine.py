"""The two models' scores, combined."""

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


def combine(weights: Scores, bert: Scores, forest: Scores) -> Scores:
    """Return `weight * bert + (1 - weight) * forest`, row by row, float32 [rows].

    Weight 0 gives the forest's score and weight 1 BERT's, exactly, whatever the other one is: a row's unused score may
    be NaN or infinite.

    Args:
        weights, bert, forest: float32 [rows]. If a score lies on a GPU, CuPy combines them there.
    """
    if not weights.any():  # the usual case of weight 0, at a tenth of the time
        return forest
    for scores in (bert, forest):
        if not isinstance(scores, np.ndarray):
            weights, bert, forest = (np.asarray(array, like=scores) for array in (weights, bert, forest))
    one = np.float32(1)
    with np.errstate(invalid="ignore"):  # 0 * inf, in a row that the next line overrides
        blend = weights * bert + (one - weights) * forest
    return np.where(weights == 0, forest, np.where(weights == 1, bert, blend))
