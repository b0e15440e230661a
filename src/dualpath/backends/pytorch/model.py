"""Stand-in for Triton's C++ `pytorch` backend: TorchScript models on the CPU or a GPU.

Like the C++ one it maps inputs and outputs by `NAME__index`, takes tensors in any dtype that TorchScript models do,
accepts a tensor or a tuple of tensors as the answer, and concatenates the requests of one `execute`. Unlike it: no
torch.compile models, and of its parameters only those below; the others are refused by name.

Two parameters are the stand-in's own; the C++ backend ignores them. `STAND_IN_ENGINE` is `auto` (the default),
`openvino` or `torch`: what computes. OpenVINO is not used unless it gives torch's answers within the tolerance.
`INFERENCE_MODE` and `INTER_OP_THREAD_COUNT` change nothing: nothing here computes gradients or forks.
`STAND_IN_CHUNK_ROWS`: long batches run in chunks of that many rows, whose activations stay in the processor's cache.

On the CPU the model lies in a process of its own (`dualpath.inference.service`), which by OpenVINO all instances share:
an instance is only a place in the queue. On a GPU each instance has the model (`dualpath.inference.torch_model`), torch
computes, and batches are not cut: the two parameters then change nothing. `FORCE_CPU_ONLY_INPUT_TENSORS`, Triton's own,
must say "no" there.
"""

import numpy as np

from dualpath import bls
from dualpath.bls.triton import pb_utils
from dualpath.inference import ENGINES, Input
from dualpath.inference.client import Shared
from dualpath.inference.served import METRIC

DTYPES = [f"TYPE_{dtype}" for dtype in ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")]


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        config.refuse_parameters_except(
            "INTRA_OP_THREAD_COUNT",
            "INTER_OP_THREAD_COUNT",
            "INFERENCE_MODE",
            "STAND_IN_CHUNK_ROWS",
            "STAND_IN_ENGINE",
            "FORCE_CPU_ONLY_INPUT_TENSORS",
            why="the stand-in for the pytorch backend",
        )
        config.boolean("INFERENCE_MODE", True)
        config.integer("INTER_OP_THREAD_COUNT", 1)
        self.inputs, inputs = self.positions(config, config.inputs)
        self.outputs, outputs = self.positions(config, config.outputs)
        settings = {
            "engine": config.choice("STAND_IN_ENGINE", ENGINES).default,
            "threads": config.integer("INTRA_OP_THREAD_COUNT", 1),
            "chunk_rows": config.integer("STAND_IN_CHUNK_ROWS", config.raw["max_batch_size"] or 1),
        }
        path, n_outputs = config.artifact("model.pt"), len(outputs)
        if config.gpu is None:
            self.model = Shared(path, inputs, n_outputs=n_outputs, name=config.name, **settings)
            self.library = None
        else:
            from dualpath.inference import torch_model

            self.model = torch_model.DeviceModel(path, config.gpu, n_outputs)
            self.library = bls.Library(self.model.read, torch_model.concatenate, torch_model.split)
        because = f": {self.model.reason}" if self.model.reason else ""
        pb_utils.Logger.log_info(f"{config.name}: served by {self.model.engine}{because}.")
        labels = {"model": config.name, "version": str(config.version), "engine": self.model.engine}
        gauge = pb_utils.MetricFamily.GAUGE
        self.family = pb_utils.MetricFamily(name=METRIC, description="What computes for a stand-in", kind=gauge)
        self.metric = self.family.Metric(labels=labels)
        self.metric.set(1)

    @staticmethod
    def positions(config, tensors):
        """Return the tensors' names in the order of their `__index`, and what they are."""
        named = {}
        for tensor in tensors:
            stem, _, index = tensor["name"].rpartition("__")
            if not stem or not index.isdecimal():
                raise bls.ConfigError(
                    f"{config.name}: expected a tensor's name of the form NAME__0, got {tensor['name']}. Rename it."
                )
            if tensor["data_type"] not in DTYPES:
                raise bls.ConfigError(
                    f"{config.name}.{tensor['name']}: expected one of {', '.join(DTYPES)}, "
                    f"which TorchScript takes, got {tensor['data_type']}. Change it."
                )
            named[int(index)] = tensor
        if sorted(named) != list(range(len(tensors))):
            raise bls.ConfigError(
                f"{config.name}: expected indices from __0 without a gap, got {sorted(named)}. Rename."
            )
        ordered = [named[index] for index in sorted(named)]
        rows = [-1] if config.raw["max_batch_size"] else []
        dtypes = [np.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"])).name for tensor in ordered]
        dims = [(*rows, *map(int, tensor["dims"])) for tensor in ordered]
        return [tensor["name"] for tensor in ordered], list(map(Input, dtypes, dims))

    def execute(self, requests):
        return bls.answer_merged(requests, self.forward, library=self.library)

    def forward(self, inputs):
        return dict(zip(self.outputs, self.model.run([inputs[name] for name in self.inputs]), strict=True))

    def finalize(self):
        self.model.close()
