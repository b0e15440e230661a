"""The process that converts a TorchScript model, compares the two engines' answers, and ends.

It reads an order as JSON from its standard input. It leaves a finding and the model in the folder that the order names.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.extras import needs
from dualpath.inference.conversion import MODEL, Finding, write
from dualpath.inference.model import Array, Input, LoadedModel
from dualpath.inference.openvino_model import HINTS, OpenVinoModel, openvino
from dualpath.inference.precision import TOLERANCES
from dualpath.inference.torch_model import TorchModel

with needs("models"):
    import torch

ROWS, LENGTHS = (1, 3), (16, 224)
"""Sizes of the sample: rows, and what else varies."""
RANGES = (20_000, 1_000, 100, 2)
"""Whole numbers of the sample are below one of these: the largest that the model takes."""
MUCH_FASTER = 0.9
"""Torch must take less than this share of OpenVINO's time: two engines of equal speed are told apart by chance."""
TIMED_S = 0.3


def main() -> None:
    """Carry out the order."""
    order = json.load(sys.stdin)
    inputs = [Input(dtype, tuple(shape)) for dtype, shape in order["inputs"]]
    folder = Path(order["folder"])
    write(find(Path(order["path"]), inputs, folder), folder)


def find(path: Path, inputs: Sequence[Input], folder: Path) -> Finding:
    """Convert a model into a folder, and say whether OpenVINO may run it."""
    reference = TorchModel(path)
    samples = list(_samples(inputs, reference.run))
    if not samples:
        return Finding(reason="torch takes none of the sample's inputs")
    ov = openvino()
    module = torch.jit.load(str(path), map_location="cpu").eval()  # the converted model's weights lie in its memory
    names = {"int32": ov.Type.i32, "int64": ov.Type.i64, "float32": ov.Type.f32}
    try:
        model = ov.convert_model(
            module,
            input=[(list(tensor.shape), names[tensor.dtype]) for tensor in inputs],
        )
    except Exception as error:  # the converter has many of its own
        return Finding(reason=f"OpenVINO cannot convert it: {_sentence(error)}")
    precision = _precision(model)
    if precision not in HINTS:
        return Finding(precision, f"it computes in {precision}")
    ov.save_model(model, str(folder / MODEL), compress_to_fp16=False)
    del model, module
    try:
        converted = OpenVinoModel(folder / MODEL, precision)
        largest = max(_difference(reference.run(sample), converted.run(sample)) for sample in samples)
    except Exception as error:
        return Finding(precision, f"OpenVINO cannot run it: {_sentence(error)}")
    if not largest <= TOLERANCES[precision]:
        return Finding(
            precision,
            f"OpenVINO's answers differ from torch's by {largest:.1e}, {precision} allows {TOLERANCES[precision]:.0e}",
            largest_difference=largest,
        )
    ms = _ms({"torch": reference, "openvino": converted}, samples[-1])
    slower = None
    if ms["torch"] < MUCH_FASTER * ms["openvino"]:
        slower = f"torch is faster here: {ms['torch']:.1f} ms against {ms['openvino']:.1f}"
    return Finding(precision, None, slower, largest, ms)


def _samples(inputs: Sequence[Input], run: Callable[[Sequence[Array]], object]) -> Iterator[list[Array]]:
    """Make inputs of several sizes that the model takes, the largest last; masks, which are 0 or 1, among them."""
    limits = [2] * len(inputs)
    for number in range(len(inputs)):
        for limit in RANGES:
            limits[number] = limit
            if _takes(run, _sample(inputs, 1, LENGTHS[0], limits)):
                break
    masks = [limits[0], *([2] * (len(inputs) - 1))]
    for rows in reversed(ROWS):
        for length in LENGTHS:
            for sample in (_sample(inputs, rows, length, limits), _sample(inputs, rows, length, masks)):
                if _takes(run, sample):
                    yield sample


def _sample(inputs: Sequence[Input], rows: int, length: int, limits: Sequence[int]) -> list[Array]:
    rng = np.random.default_rng(rows * length)
    arrays: list[Array] = []
    for tensor, limit in zip(inputs, limits, strict=True):
        shape = [rows, *(length if size == -1 else size for size in tensor.shape[1:])]
        if tensor.dtype == "float32":
            arrays.append(rng.standard_normal(shape, np.float32))
        else:
            array = rng.integers(0, limit, shape).astype(tensor.dtype)
            array[:, :1] = 1  # at least one token in a mask
            arrays.append(array)
    return arrays


def _takes(run: Callable[[Sequence[Array]], object], sample: Sequence[Array]) -> bool:
    try:
        run(sample)
    except Exception:  # whatever a model raises for a number or a length that it does not know
        return False
    return True


def _difference(expected: Sequence[Array], got: Sequence[Array]) -> float:
    """Return the largest difference, over the size of the answers if that is above 1; infinity for another shape."""
    if [array.shape for array in expected] != [array.shape for array in got]:
        return float("inf")
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(expected, got, strict=True)]
    return max((float(np.abs(a - b).max() / max(1.0, np.abs(a).max())) for a, b in pairs if a.size), default=0.0)


def _precision(model: Any) -> str:
    """Return int8 if weights are scaled int8, else the narrowest floating-point type among them, by torch's name."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    kinds = {node.get_element_type().get_type_name() for node in constants}
    if "i8" in kinds and any(_is_scaled(node) for node in constants):
        return "int8"
    names = {"f16": "float16", "bf16": "bfloat16", "f64": "float64"}
    return next((name for kind, name in names.items() if kind in kinds), "float32")


def _is_scaled(constant: Any) -> bool:
    """Tell an int8 weight that is converted and multiplied by a scale before use."""
    if constant.get_element_type().get_type_name() != "i8":
        return False
    converted = [user.get_node() for user in constant.output(0).get_target_inputs()]
    used = [user.get_node() for node in converted for user in node.output(0).get_target_inputs()]
    return any(node.get_type_name() == "Multiply" for node in used)


def _ms(models: Mapping[str, LoadedModel], sample: Sequence[Array]) -> dict[str, float]:
    """Return each model's time of the processor for a call, the least of several in turns.

    Other work on the machine adds to it, but far less than to the time that passes.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    while min(sum(found) for found in times.values()) < TIMED_S:
        for name, model in models.items():
            started = time.process_time()
            model.run(sample)
            times[name].append(time.process_time() - started)
    return {name: min(found) * 1e3 for name, found in times.items()}


def _sentence(error: Exception) -> str:
    """Return an error in one line: OpenVINO's are many, and begin with a banner."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line and not line.startswith(("Check", "Exception from"))), "")
    return (said or type(error).__name__).rstrip(".")[:160]


if __name__ == "__main__":
    main()
