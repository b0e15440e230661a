"""Refuse what Triton refuses before a model sees it, in its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing.tensor import TRITON_STRING_TO_NUMPY


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
