"""Write the right pipeline and its variants as models of one repository, and rows to ask them."""

import json
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))  # the models import these files by their bare names, too

import pipeline  # noqa: E402
from harmless import HARMLESS  # noqa: E402
from variants import RIGHT  # noqa: E402
from wrong import WRONG  # noqa: E402

INPUTS = {
    "IMAGE": ("FP32", [3, pipeline.SIDE, pipeline.SIDE]),
    "MASK": ("UINT8", [pipeline.SIDE, pipeline.SIDE]),
    "GAIN": ("FP32", [1]),
}


def build(repository, names):
    """Write the named variants, each a model folder of its variant's name."""
    variants = {"right": RIGHT, **WRONG, **HARMLESS}
    for name in names:
        variant = variants[name]
        folder = repository / name
        version = folder / str(variant.config.version)
        version.mkdir(parents=True)
        for file in FOLDER.glob("*.py"):
            if file.name != Path(__file__).name:
                shutil.copy(file, version)
        (folder / "config.pbtxt").write_text(_config(name, variant.config))


def _config(name, config):
    inputs = list(INPUTS.items())
    if config.inputs_reversed:
        inputs.reverse()
    lines = ['backend: "python"', f"max_batch_size: {config.max_batch_size}", config.more]
    for tensor, (kind, dims) in inputs:
        optional = "optional: true" if tensor == "GAIN" else ""
        lines.append(f'input {{ name: "{tensor}" data_type: TYPE_{kind} dims: {dims} {optional} }}')
    for tensor, (kind, dims) in config.outputs.items():
        lines.append(f'output {{ name: "{tensor}" data_type: TYPE_{kind} dims: {dims} }}')
    for key, value in {"variant": name, **config.parameters}.items():
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')
    lines.append(f"instance_group [{{ count: {config.instances} kind: KIND_CPU }}]")
    if config.batching:
        lines.append(f"dynamic_batching {{ {config.batching} }}")
    return "\n".join(lines) + "\n"


def write_rows(path, n_rows, n_marked=0):
    """Write made-up rows in the form of perf_analyzer's --input-data."""
    rows = pipeline.rows(n_rows, n_marked=n_marked)
    data = [
        {name: {"content": array[i].ravel().tolist(), "shape": list(array.shape[1:])} for name, array in rows.items()}
        for i in range(n_rows)
    ]
    path.write_text(json.dumps({"data": data}))
