"""The repository's Python models, loaded without Triton by their own configs."""

import importlib.util
import json

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as proto

from dualpath.readability.samples import SAMPLES
from paths import REPOSITORY

EXCERPTS = np.array([[text.encode()] for text in SAMPLES.values()], np.object_)


def load(name):
    spec = importlib.util.spec_from_file_location(f"served_{name}", REPOSITORY / name / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def args(name, kind, device_id="0"):
    file = "config.pbtxt" if kind == "CPU" else "configs/gpu.pbtxt"
    config = text_format.Parse((REPOSITORY / name / file).read_text(), proto.ModelConfig())
    return {
        "model_config": json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)),
        "model_name": name,
        "model_version": "1",
        "model_repository": str(REPOSITORY / name),
        "model_instance_kind": kind,
        "model_instance_device_id": device_id,
    }
