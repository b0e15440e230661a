"""Read config.pbtxt as Triton does: protobuf's text format, completed by the files that are there."""

from pathlib import Path
from typing import Any

from dualpath.errors import UserError
from dualpath.repository import pbtxt
from dualpath.repository.folders import versions

BACKENDS = {
    "model.py": "python",
    "model.pt": "pytorch",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.plan": "tensorrt",
}
"""The backend that Triton takes if a config names none, by the file that it finds in a version."""


def read(model: Path, config_name: str | None = None) -> Any:
    """Return the config that Triton would load, as a `ModelConfig` message, its name and backend completed.

    Args:
        model: the model's folder.
        config_name: take `configs/<config_name>.pbtxt` if the model has it, as Triton does.
    Raises:
        UserError: the file cannot be read or is no config.
    """
    named = model / "configs" / f"{config_name}.pbtxt"
    config = read_file(named if config_name and named.is_file() else model / "config.pbtxt")
    config.name = config.name or model.name
    if not config.backend and not config.platform:
        files = [config.default_model_filename] if config.default_model_filename else BACKENDS
        present = (file for file in files if any((version / file).exists() for version in versions(model)))
        config.backend = BACKENDS.get(next(present, ""), "")
    return config


def read_file(path: Path) -> Any:
    """Return the `ModelConfig` message that a file holds; an empty one if there is no such file.

    Raises:
        UserError: the file cannot be read or is no config.
    """
    try:
        return pbtxt.Config.load(path).message
    except FileNotFoundError:
        return pbtxt.Config("").message
    except OSError as error:
        raise UserError(f"{path}: expected a file to read, got: {error.strerror}. Give it rights.") from None


def served_versions(model: Path, config_name: str | None = None) -> set[int]:
    """Return the versions that Triton serves by the model's version policy; by default that is the newest."""
    policy, found = read(model, config_name).version_policy, [int(path.name) for path in versions(model)]
    if policy.HasField("specific"):
        return set(policy.specific.versions)
    return set(found if policy.HasField("all") else found[: policy.latest.num_versions or 1])


def files(model: Path) -> list[Path]:
    """Return the model's config files: config.pbtxt, then those in configs."""
    return [path for path in (model / "config.pbtxt", *sorted(model.glob("configs/*.pbtxt"))) if path.is_file()]


def parameters(config: Any) -> dict[str, str]:
    """Return a config's parameters."""
    return {key: value.string_value for key, value in config.parameters.items()}


def is_python(config: Any) -> bool:
    """Tell whether the Python backend serves a model."""
    return bool(config.backend == "python")
