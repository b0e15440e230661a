"""A model's own configuration, as Triton hands it to `initialize`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.bls.errors import BadParameter
from dualpath.bls.request import Request


class ConfigError(ValueError):
    """The configuration asks for something that cannot be had. The message names the model and the setting."""


@dataclass(frozen=True)
class Setting:
    """A choice that a model's configuration makes, and that a request's parameter of the same name overrides."""

    name: str
    allowed: tuple[str, ...]
    default: str

    def of(self, request: Request) -> str:
        """Return the choice for one request.

        Raises:
            BadParameter: the request asks for something else.
        """
        chosen = request.parameters.get(self.name, self.default)
        if chosen not in self.allowed:
            raise BadParameter(f"parameter {self.name!r}: expected {' or '.join(self.allowed)}, got {chosen!r}.")
        return str(chosen)


class ModelConfig:
    """What `initialize(args)` receives, decoded."""

    def __init__(self, args: dict[str, str]) -> None:
        self.raw: dict[str, Any] = json.loads(args["model_config"])
        self.name = args["model_name"]
        self.kind = args["model_instance_kind"]
        self._args = args
        self.directory = Path(args["model_repository"])
        self.version = int(args["model_version"])
        self.version_directory = self.directory / str(self.version)
        self.parameters: dict[str, str] = {
            key: value["string_value"] for key, value in self.raw.get("parameters", {}).items()
        }
        self.inputs: list[dict[str, Any]] = self.raw["input"]
        self.outputs: list[dict[str, Any]] = self.raw["output"]

    @property
    def gpu(self) -> int | None:
        """The GPU that the instance runs on; None on the CPU.

        Raises:
            ConfigError: it is not the first that this process sees, the one where CuPy and cuDF compute.
        """
        if self.kind == "CPU":
            return None
        device_id = self._args["model_instance_device_id"]
        if device_id != "0":
            raise ConfigError(
                f"{self.name}: expected an instance on GPU 0, got one on GPU {device_id}. Say `gpus: [ 0 ]` in "
                "its instance_group, and choose the server's GPU with CUDA_VISIBLE_DEVICES."
            )
        return 0

    def path(self, parameter: str) -> Path:
        """Return the existing file that a parameter names, relative to the model's folder.

        `{version}` in it stands for this model's own version, so that it reads what belongs to that.

        Raises:
            ConfigError: the parameter or the file is missing.
        """
        if parameter not in self.parameters:
            raise ConfigError(f"{self.name}: expected a parameter {parameter!r} that names a file, got none.")
        path = (self.directory / self.parameters[parameter].replace("{version}", str(self.version))).resolve()
        if not path.is_file():
            raise ConfigError(f"{self.name}: expected the file {path} (parameter {parameter!r}), got none.")
        return path

    def artifact(self, default: str) -> Path:
        """Return the model file of this version: `default_model_filename`, or else `default`.

        Raises:
            ConfigError: the file is missing.
        """
        path = self.version_directory / (self.raw.get("default_model_filename") or default)
        if not path.is_file():
            raise ConfigError(f"{self.name}: expected the model file {path}, got none.")
        return path

    def integer(self, parameter: str, default: int | None = None) -> int:
        """Return a parameter that is a positive whole number, or `default` where it is not set."""
        text = self.parameters.get(parameter, "nothing" if default is None else str(default))
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"{self.name}: parameter {parameter!r}: expected a positive whole number, got {text!r}.")
        return int(text)

    def boolean(self, parameter: str, default: bool) -> bool:
        """Return a parameter that says "true" or "false", or `default` where it is not set."""
        text = self.parameters.get(parameter, str(default)).lower()
        if text not in ("true", "false"):
            raise ConfigError(f'{self.name}: parameter {parameter!r}: expected "true" or "false", got {text!r}.')
        return text == "true"

    def setting(self, parameter: str, allowed: tuple[str, ...]) -> Setting:
        """Return a setting whose default is this parameter, or the first allowed value where it is not set."""
        default = self.parameters.get(parameter, allowed[0])
        if default not in allowed:
            raise ConfigError(
                f"{self.name}: parameter {parameter!r}: expected {' or '.join(allowed)}, got {default!r}."
            )
        return Setting(parameter, allowed, default)

    def refuse_parameters_except(self, *known: str, why: str) -> None:
        """Raise ConfigError for the first parameter that is not among `known`."""
        for parameter in self.parameters:
            if parameter not in known:
                raise ConfigError(f"{self.name}: parameter {parameter!r} cannot be honoured by {why}. Remove it.")

    def refuse_gpu(self, why: str) -> None:
        """Raise ConfigError where the instance is to run on a GPU."""
        if self.kind != "CPU":
            raise ConfigError(f"{self.name}: expected an instance group of KIND_CPU, got KIND_{self.kind}. {why}")
