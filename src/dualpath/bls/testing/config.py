"""Read a config.pbtxt and complete it as Triton 24.10 does before it hands it to a Python model; refuse what Triton
refuses by it before a model sees it, in its words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing.tensor import TRITON_STRING_TO_NUMPY

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<word>[\w.+-]+)|(?P<mark>[{}\[\]<>:,;])"""
)
_REPEATED = {
    *("input", "output", "dims", "shape", "instance_group", "gpus", "secondary_devices", "profile", "step", "versions"),
    *("preferred_batch_size", "batch_input", "batch_output", "model_warmup", "source_input", "target_name", "control"),
}
_MAPS = {"parameters", "metric_tags", "cc_model_filenames", "priority_queue_policy", "input_map", "output_map"}
_INPUT = {
    "format": "FORMAT_NONE",
    "dims": [],
    "is_shape_tensor": False,
    "allow_ragged_batch": False,
    "optional": False,
    "is_non_linear_format_io": False,
}
_OUTPUT = {"dims": [], "label_filename": "", "is_shape_tensor": False, "is_non_linear_format_io": False}
_GROUP = {"count": 1, "gpus": [], "secondary_devices": [], "profile": [], "passive": False, "host_policy": ""}
_BATCHING = {
    "preferred_batch_size": [],
    "max_queue_delay_microseconds": 0,
    "preserve_ordering": False,
    "priority_levels": 0,
    "default_priority_level": 0,
    "priority_queue_policy": {},
}
_POLICY = {
    "timeout_action": "REJECT",
    "default_timeout_microseconds": 0,
    "allow_timeout_override": False,
    "max_queue_size": 0,
}
_OPTIMIZATION = {
    "priority": "PRIORITY_DEFAULT",
    "input_pinned_memory": {"enable": True},
    "output_pinned_memory": {"enable": True},
    "gather_kernel_buffer_threshold": 0,
    "eager_batching": False,
}


def read(folder: Path) -> dict[str, Any]:
    """Return the config of a model's folder as Triton completes it.

    Raises:
        ValueError: config.pbtxt is missing or no protobuf text.
    """
    path = folder / "config.pbtxt"
    if not path.is_file():
        raise ValueError(f"{folder}: expected a config.pbtxt, got none.")
    try:
        return complete(parse(path.read_text(encoding="utf-8")), folder.name)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected a model's config in protobuf's text format, got {error}.") from None


def complete(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Add what Triton adds: the defaults of what a config leaves out, on a machine without a GPU."""
    max_batch_size = given.get("max_batch_size", 0)
    groups = given.get("instance_group", [{"name": given.get("name", name)}])
    config = {
        "name": name,
        "platform": "",
        "backend": "python",
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "batch_input": [],
        "batch_output": [],
        "default_model_filename": "model.py",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
        **given,
        "input": [_INPUT | tensor for tensor in given.get("input", [])],
        "output": [_OUTPUT | tensor for tensor in given.get("output", [])],
        "optimization": _OPTIMIZATION | given.get("optimization", {}),
        "instance_group": [
            _GROUP | {"name": f"{name}_{i}", "kind": "KIND_CPU"} | group for i, group in enumerate(groups)
        ],
    }
    if (batching := given.get("dynamic_batching")) is not None:
        completed = _BATCHING | {"preferred_batch_size": [max_batch_size]} | batching
        if "default_queue_policy" in batching:
            completed["default_queue_policy"] = _POLICY | batching["default_queue_policy"]
        config["dynamic_batching"] = completed
    return config


def parse(text: str) -> dict[str, Any]:
    """Return a protobuf text message as JSON would have it."""
    tokens = _tokens(text)
    message = _message(tokens)
    if tokens:
        raise ValueError(f"{tokens[-1]} that nothing opens")
    return message


def _tokens(text: str) -> list[str]:
    """Split a text into what it is made of, the first token last."""
    tokens, position = [], 0
    while position < len(text):
        if (match := _TOKEN.match(text, position)) is None:
            raise ValueError(repr(text[position : position + 20]))
        position = match.end()
        if match.lastgroup:
            tokens.append(match[0])
    return tokens[::-1]


def _message(tokens: list[str]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    while tokens and tokens[-1] not in "}>":
        name = tokens.pop()
        if tokens[-1] == ":":
            tokens.pop()
        values = _values(tokens)
        if name in _MAPS:
            message.setdefault(name, {}).update({entry["key"]: entry["value"] for entry in values})
        elif name in _REPEATED:
            message.setdefault(name, []).extend(values)
        else:
            message[name] = values[-1]
        if tokens and tokens[-1] in ",;":
            tokens.pop()
    return message


def _values(tokens: list[str]) -> list[Any]:
    if tokens[-1] != "[":
        return [_value(tokens)]
    tokens.pop()
    values = []
    while tokens[-1] != "]":
        values.append(_value(tokens))
        if tokens[-1] == ",":
            tokens.pop()
    tokens.pop()
    return values


def _value(tokens: list[str]) -> Any:
    token = tokens.pop()
    if token in "{<":
        message = _message(tokens)
        tokens.pop()
        return message
    if token[0] in "\"'":
        text = _unquoted(token)
        while tokens and tokens[-1][0] in "\"'":  # strings that stand side by side are one
            text += _unquoted(tokens.pop())
        return text
    if token in ("true", "false"):
        return token == "true"
    if re.fullmatch(r"[+-]?\d+", token):
        return int(token)
    try:
        return float(token)
    except ValueError:
        return token


def _unquoted(literal: str) -> str:
    inner = literal[1:-1].replace("\\'", "'")
    text: str = json.loads(f'"{inner}"' if literal[0] == '"' else json.dumps(inner))
    return text


def dtype_of(tensor: Mapping[str, Any]) -> str:
    """Return the dtype of an input or output of a config, such as "BYTES"."""
    name: str = tensor["data_type"].removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


_DTYPES = {np.dtype(numpy): dtype_of({"data_type": name}) for name, numpy in TRITON_STRING_TO_NUMPY.items()}


def to_wire(array: npt.ArrayLike, dtype: str) -> npt.NDArray[Any]:
    """Return a copy as it arrives: strings as `bytes` in an object array."""
    array = np.array(array)
    if dtype != "BYTES":
        return array
    texts = [each.encode() if isinstance(each, str) else bytes(each) for each in array.ravel().tolist()]
    return np.array(texts, np.object_).reshape(array.shape)


def refusal(config: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Iterable[str], id: str = "") -> str | None:
    """Return why Triton refuses a request, if it does.

    Args:
        config: of the model that is asked.
        inputs: arrays by name, the bits of BF16 as uint16.
        outputs: the outputs that are asked for.
    """
    name = config["name"]
    known = {tensor["name"]: tensor for tensor in config["input"]}
    if unknown := [each for each in outputs if each not in {tensor["name"] for tensor in config["output"]}]:
        return f"unexpected inference output '{unknown[0]}' for model '{name}'"
    if unknown := [each for each in inputs if each not in known]:
        return f"unexpected inference input '{unknown[0]}' for model '{name}'"
    begin = f"[request id: {id or '<id_unknown>'}] "
    required = [each for each, tensor in known.items() if not tensor["optional"]]
    if missing := [each for each in required if each not in inputs]:
        n, got, lacking = len(known), ",".join(f"'{i}'" for i in inputs), ",".join(f"'{i}'" for i in missing)
        expected = f"{n} inputs" if len(required) == n else f"number of inputs between {len(required)} and {n}"
        return (
            f"{begin}expected {expected} but got {len(inputs)} inputs for model '{name}'. Got input(s) [{got}], but "
            f"missing required input(s) [{lacking}]. Please provide all required input(s)."
        )
    for each, array in inputs.items():
        expected = dtype_of(known[each])
        given = "BF16" if expected == "BF16" and array.dtype == np.uint16 else _DTYPES.get(array.dtype, "BYTES")
        if given != expected:
            return f"{begin}inference input '{each}' data-type is '{given}', but model '{name}' expects '{expected}'"
        if config["max_batch_size"] and array.ndim and len(array) > config["max_batch_size"]:
            return f"{begin}inference request batch-size must be <= {config['max_batch_size']} for '{name}'"
        dims = [-1] * bool(config["max_batch_size"]) + known[each]["dims"]
        if len(dims) != array.ndim or any(d not in (-1, n) for d, n in zip(dims, array.shape, strict=True)):
            shapes = "[{}], got [{}]".format(*(",".join(map(str, shape)) for shape in (dims, array.shape)))
            return f"{begin}unexpected shape for input '{each}' for model '{name}'. Expected {shapes}."
    return None
