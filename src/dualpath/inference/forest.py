"""A Treelite checkpoint on a GPU, by whichever RAPIDS library is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Predict = Callable[[Any], Any]
"""Takes float32 [rows, features], NumPy's or CuPy's, and returns as many predictions on the GPU."""


def load_on_gpu(checkpoint: Path, gpu: int) -> tuple[Predict, str] | None:
    """Load a regressor with nvForest, or else with cuML's FIL, its predecessor; None if neither is installed.

    Returns:
        What predicts, and its name.
    """
    try:
        import nvforest
    except ModuleNotFoundError:
        pass
    else:
        model = nvforest.load_model(checkpoint, model_type="treelite_checkpoint", device="gpu", device_id=gpu)
        return model.predict, f"nvForest {nvforest.__version__}"
    try:
        import cuml
    except ModuleNotFoundError:
        return None
    from cuml.fil import ForestInference

    fil = ForestInference.load(str(checkpoint), model_type="treelite_checkpoint", is_classifier=False, device_id=gpu)
    return fil.predict, f"FIL of cuML {cuml.__version__}"
