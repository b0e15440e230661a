"""Write a model for Triton's own C++ `openvino` backend, which the embedded server does not have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dualpath.inference import conversion, openvino_model
from dualpath.inference.model import EngineError, Input

CONFIG = """\
# The BERT regressor for Triton's C++ `openvino` backend: what the stand-in for `pytorch` computes with, without Python.
# Written by `dualpath build --format openvino`. It was never run there: the embedded server lacks that backend.
name: "{name}"
backend: "openvino"
max_batch_size: {max_batch_size}
input [
{inputs}
]
output [
  {{ name: "{output}", data_type: TYPE_FP32, dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
dynamic_batching {{ }}
parameters {{ key: "NUM_STREAMS" value {{ string_value: "{streams}" }} }}
parameters {{ key: "INFERENCE_NUM_THREADS" value {{ string_value: "{streams}" }} }}
"""


def export(path: Path, folder: Path, inputs: dict[str, Input], output: str, max_batch_size: int) -> Path:
    """Convert a TorchScript file and write it, and its config, as a model folder with version 1.

    Args:
        folder: the model's folder, named as the model.
        inputs: by name, in the model's order; whole numbers of 64 bits.
    Returns:
        The converted model, `model.xml`; its weights lie beside it.
    Raises:
        EngineError: OpenVINO is not installed, cannot convert the model, or answers something else than torch.
    """
    if openvino_model.missing():
        raise EngineError(
            "--format openvino: expected OpenVINO to be installed, got none. Run `pip install 'dualpath[embedded]'`."
        )
    found = conversion.convert(path, list(inputs.values()))
    if found.reason:
        raise EngineError(
            f"{path}: expected a model for OpenVINO, got one for torch: {found.reason}. Serve it by that."
        )
    ov = openvino_model.openvino()
    model = ov.Core().read_model(str(found.model))
    _name([port.get_tensor() for port in model.inputs], list(inputs))
    _name([port.get_tensor() for port in model.outputs], [output])
    target = folder / "1" / "model.xml"
    target.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, str(target), compress_to_fp16=False)
    lines = [f'  {{ name: "{name}", data_type: TYPE_INT64, dims: [ -1 ] }}' for name in inputs]
    streams = len(os.sched_getaffinity(0))
    text = CONFIG.format(
        name=folder.name, max_batch_size=max_batch_size, inputs=",\n".join(lines), output=output, streams=streams
    )
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return target


def _name(tensors: Sequence[object], names: Sequence[str]) -> None:
    for tensor, name in zip(tensors, names, strict=True):
        tensor.set_names({name})  # type: ignore[attr-defined]
