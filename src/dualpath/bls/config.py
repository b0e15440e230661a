"""A model's own configuration, as Triton hands it to `initialize`."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dualpath.bls.errors import BadParameter, ConfigError
from dualpath.bls.request import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Setting(Generic[T]):
    """A value that a model's configuration sets, and that a request's parameter of the same name overrides."""

    name: str
    default: T
    read: Callable[[Any], T]
    """Returns what a request's parameter says; raises ValueError, whose text says what is expected."""

    def of(self, request: Request) -> T:
        """Return the value for one request.

        Raises:
            BadParameter: the request asks for one that is not allowed.
        """
        if self.name not in request.parameters:
            return self.default
        given = request.parameters[self.name]
        try:
            return self.read(given)
        except ValueError as error:
            raise BadParameter(f"parameter {self.name!r}: expected {error}, got {given!r}. Send another.") from None


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

        self.max_batch_size = int(self.raw.get("max_batch_size", 0))
        """Rows of a request at most; 0 if the model has no batch dimension."""
        self.bf16_outputs = tuple(each["name"] for each in self.outputs if each["data_type"] == "TYPE_BF16")

    @property
    def gpu(self) -> int | None:
        """The number of the GPU that the instance runs on; None on the CPU.

        Raises:
            ConfigError: Triton leaves the choice to the model (KIND_MODEL).
        """
        if self.kind == "CPU":
            return None
        if self.kind != "GPU":
            raise ConfigError(
                f"{self.name}: expected an instance group of KIND_CPU or KIND_GPU, got KIND_{self.kind}. "
                "Name the kind in its instance_group."
            )
        return int(self._args["model_instance_device_id"])

    def _gpu_to_use(self) -> int | None:
        """Return the GPU that threads have to choose; None on the CPU and for the first GPU, CUDA's default.

        Raises:
            ConfigError: CuPy, which chooses it, is missing.
        """
        if self.gpu and importlib.util.find_spec("cupy") is None:
            raise ConfigError(
                f"{self.name}: expected CuPy for an instance on GPU {self.gpu}, got none. Install CuPy, or choose the "
                "server's GPU with CUDA_VISIBLE_DEVICES."
            )
        return self.gpu or None

    def _refuse_what_a_pipeline_cannot_do(self, streams: bool) -> None:
        """Raise ConfigError for sequences, and if a graph that yields several answers meets a model that gives one.

        Args:
            streams: whether the graph is an async generator.
        """
        if "sequence_batching" in self.raw:
            raise ConfigError(
                f"{self.name}: expected no sequence_batching, as a Pipeline keeps no state, got it. Remove it."
            )
        decoupled = bool(self.raw.get("model_transaction_policy", {}).get("decoupled", False))
        if decoupled != streams:
            raise ConfigError(
                f"{self.name}: expected model_transaction_policy {{ decoupled: {str(streams).lower()} }}, as the graph "
                f"{'yields' if streams else 'returns'} its answers, got {str(decoupled).lower()}. Set it."
            )

    def path(self, parameter: str) -> Path:
        """Return the existing file that a parameter names, relative to the model's folder.

        `{version}` in it stands for this model's own version, so that it reads what belongs to that.

        Raises:
            ConfigError: the parameter or the file is missing.
        """
        if parameter not in self.parameters:
            raise ConfigError(f"{self.name}: expected a parameter {parameter!r} that names a file, got none. Set it.")
        path = (self.directory / self.parameters[parameter].replace("{version}", str(self.version))).resolve()
        if not path.is_file():
            raise ConfigError(f"{self.name}: expected the file {path} (parameter {parameter!r}), got none. Build it.")
        return path

    def artifact(self, default: str) -> Path:
        """Return the model file of this version: `default_model_filename`, or else `default`.

        Raises:
            ConfigError: the file is missing.
        """
        path = self.version_directory / (self.raw.get("default_model_filename") or default)
        if not path.is_file():
            raise ConfigError(f"{self.name}: expected the model file {path}, got none. Build it.")
        return path

    def integer(self, parameter: str, default: int | None = None) -> int:
        """Return a parameter that is a positive whole number, or `default` if it is not set."""
        text = self.parameters.get(parameter, "nothing" if default is None else str(default))
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"{self.name}: parameter {parameter!r}: expected a positive whole number, got {text!r}. Correct it."
            )
        return int(text)

    def boolean(self, parameter: str, default: bool) -> bool:
        """Return a parameter that says "true" or "false", or `default` if it is not set."""
        text = self.parameters.get(parameter, str(default)).lower()
        if text not in ("true", "false"):
            raise ConfigError(
                f'{self.name}: parameter {parameter!r}: expected "true" or "false", got {text!r}. Correct it.'
            )
        return text == "true"

    def choice(self, parameter: str, allowed: tuple[str, ...]) -> Setting[str]:
        """Return a setting that is one of several words; its default is this parameter, or else the first of them."""

        def read(given: Any) -> str:
            if given not in allowed:
                raise ValueError(" or ".join(allowed))
            return str(given)

        return self._setting(parameter, allowed[0], read)

    def number(
        self, parameter: str, default: float, minimum: float = -math.inf, maximum: float = math.inf
    ) -> Setting[float]:
        """Return a setting that is a number within bounds; its default is this parameter, or `default`."""

        def read(given: Any) -> float:
            try:
                value = math.nan if isinstance(given, bool) else float(given)
            except (TypeError, ValueError):
                value = math.nan
            if not minimum <= value <= maximum:
                raise ValueError(f"a number{_range(minimum, maximum)}")
            return value

        return self._setting(parameter, default, read)

    def switch(self, parameter: str, default: bool) -> Setting[bool]:
        """Return a setting that is true or false; its default is this parameter, or `default`."""

        def read(given: Any) -> bool:
            if str(given).lower() not in ("true", "false"):
                raise ValueError("true or false")
            return str(given).lower() == "true"

        return self._setting(parameter, default, read)

    def _setting(self, parameter: str, default: T, read: Callable[[Any], T]) -> Setting[T]:
        if parameter not in self.parameters:
            return Setting(parameter, default, read)
        given = self.parameters[parameter]
        try:
            return Setting(parameter, read(given), read)
        except ValueError as error:
            raise ConfigError(
                f"{self.name}: parameter {parameter!r}: expected {error}, got {given!r}. Correct it."
            ) from None

    def refuse_parameters_except(self, *known: str, why: str) -> None:
        """Raise ConfigError for the first parameter that is not among `known`."""
        for parameter in self.parameters:
            if parameter not in known:
                raise ConfigError(f"{self.name}: expected parameters that {why} honours, got {parameter!r}. Remove it.")

    def refuse_gpu(self, why: str) -> None:
        """Raise ConfigError if the instance is to run on a GPU."""
        if self.kind != "CPU":
            raise ConfigError(f"{self.name}: expected an instance group of KIND_CPU, got KIND_{self.kind}. {why}")


def _range(minimum: float, maximum: float) -> str:
    low = f" from {minimum:g}" if minimum > -math.inf else ""
    return low + (f" up to {maximum:g}" if maximum < math.inf else "")
