"""Read a config.pbtxt and complete it as Triton 24.10 does before it hands it to a Python model; refuse what Triton
refuses by it before a model sees it, in its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing.tensor import TRITON_STRING_TO_NUMPY
from dualpath.repository.pbtxt_fields import ConfigSyntaxError, Field, FieldReader, Value, strings

_REPEATED = {
    *("agents", "batch_input", "batch_output", "bool_false_true", "buckets", "control", "control_input", "dim", "dims"),
    *("cpu_execution_accelerator", "fp32_false_true", "gpu_execution_accelerator", "gpus", "graph_spec"),
    *("initial_state", "input", "instance_group", "int32_false_true", "metric_control", "model_warmup"),
    *("op_library_filename", "output", "preferred_batch_size", "profile", "resources", "secondary_devices", "shape"),
    *("source_input", "state", "step", "target_name", "versions"),
}
_MESSAGES_BY_KEY = {"inputs", "parameters", "priority_queue_policy"}
_TEXTS_BY_KEY = {"cc_model_filenames", "input_map", "metric_tags", "output_map"}
_FLAGS = {
    *("allow_ragged_batch", "allow_timeout_override", "bool_false_true", "busy_wait_events", "decoupled"),
    *("eager_batching", "enable", "global", "graphs", "is_non_linear_format_io", "is_shape_tensor"),
    *("iterative_sequence", "optional", "output_copy_stream", "passive", "preserve_ordering", "random_data"),
    *("use_growable_memory", "use_same_buffer_for_input_output", "zero_data"),
}
_ESCAPED = dict(zip("abfnrtv\\'\"?", (bytes([code]) for code in b"\a\b\f\n\r\t\v\\'\"?"), strict=True))
_WHOLE = re.compile(r"0x[0-9a-f]+|\d+")
_FLOAT = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?f?|inf(inity)?|nan")
_SAID = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
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


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a model's folder as Triton completes it.

    Raises:
        ValueError: config.pbtxt is missing or no protobuf text.
    """
    path = folder / "config.pbtxt"
    if not path.is_file():
        raise ValueError(f"{folder}: expected a config.pbtxt, got none. Name a model's folder.")
    try:
        return complete(parse(path.read_text(encoding="utf-8"), str(path)), folder.name)
    except ConfigSyntaxError as error:
        raise ValueError(str(error)) from None
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a model's config in protobuf's text format, got: {str(error).rstrip('.')}. Correct it."
        ) from None


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


def parse(text: str, source: str = "config.pbtxt") -> dict[str, Any]:
    """Return a protobuf text of a ModelConfig as JSON would have it."""
    return _message(FieldReader(text, source).read(), text)


def _message(fields: Iterable[Field], text: str) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for field in fields:
        name = field.name
        values = [_value(name, value, text) for value in field.values]
        by_key = name == "input" and any("key" in value for value in values)  # of a CUDA graph's shapes
        if by_key or name in _MESSAGES_BY_KEY | _TEXTS_BY_KEY:
            default = "" if name in _TEXTS_BY_KEY else {}
            entries = {str(entry.get("key", "")): entry.get("value", default) for entry in values}
            message.setdefault(name, {}).update(entries)
        elif name in _REPEATED:
            message.setdefault(name, []).extend(values)
        elif name in message or len(values) != 1:
            raise ValueError(f"several values of {name}, which takes one")
        else:
            message[name] = values[0]
    return message


def _value(name: str, value: Value, text: str) -> Any:
    if value.fields is not None:
        return _message(value.fields, text)
    word = text[value.start : value.end]
    if word[0] in "\"'":
        return "".join(map(_unquoted, strings(word)))
    if name in _FLAGS and word in _SAID:
        return _SAID[word]
    number = "".join(word.split()).lower()  # "- 1"
    bare = number.removeprefix("-")
    if _WHOLE.fullmatch(bare):
        return int(number, 16 if bare.startswith("0x") else 8 if bare.startswith("0") else 10)
    if _FLOAT.fullmatch(bare):
        return float(number if bare.startswith("inf") else number.removesuffix("f"))
    return word


def _unquoted(literal: str) -> str:
    """Return what a string means: backslashes stand for bytes of UTF-8."""
    parts = re.split(r"(\\(?:[0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.))", literal[1:-1])
    plain, escaped = parts[::2], [*map(_byte, parts[1::2]), b""]
    return b"".join(
        text.encode("utf-8", "surrogateescape") + byte for text, byte in zip(plain, escaped, strict=True)
    ).decode()


def _byte(escape: str) -> bytes:
    kind = escape[1]
    if kind in "xX" and escape[2:]:
        return bytes([int(escape[2:], 16)])
    if kind in "uU" and escape[2:]:
        return chr(int(escape[2:], 16)).encode()
    if kind in "01234567":
        return bytes([int(escape[1:], 8) & 255])
    if kind not in _ESCAPED:
        raise ValueError(f"the escape {escape}")
    return _ESCAPED[kind]


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
