"""BERT by the pytorch stand-in's code for a GPU, with torch's CPU in the GPU's place."""

import importlib.util
import json

from dualpath.inference import torch_model
from dualpath.serving.installation import STAND_INS

torch_model.TYPE = "cpu"
spec = importlib.util.spec_from_file_location("stand_in", STAND_INS / "pytorch" / "model.py")
stand_in = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in)


class TritonPythonModel(stand_in.TritonPythonModel):
    def initialize(self, args):
        config = json.loads(args["model_config"])
        config["default_model_filename"] = "model.pt"  # Triton has put this file's name there
        on_gpu = {"model_instance_kind": "GPU", "model_instance_device_id": "0"}
        super().initialize(args | on_gpu | {"model_config": json.dumps(config)})
