"""Stand-in for Triton's C++ `pytorch` backend: TorchScript models on the CPU.

Like the C++ one it maps inputs and outputs by `NAME__index`, takes tensors in any dtype that TorchScript models do,
accepts a tensor or a tuple of tensors as the answer, and concatenates the requests of one `execute`. Unlike it: no GPU,
no torch.compile models, and of its parameters only those below; the others are refused by name.

`STAND_IN_CHUNK_ROWS` is the stand-in's own (the C++ backend ignores it): long batches run in chunks of that many rows,
whose activations stay in the processor's cache.
"""

import os

from dualpath import bls
from dualpath.extras import needs

with needs("models"):
    import torch

NICENESS = 10

DTYPES = {
    "TYPE_BOOL": torch.bool,
    "TYPE_UINT8": torch.uint8,
    "TYPE_INT8": torch.int8,
    "TYPE_INT16": torch.int16,
    "TYPE_INT32": torch.int32,
    "TYPE_INT64": torch.int64,
    "TYPE_FP16": torch.float16,
    "TYPE_FP32": torch.float32,
    "TYPE_FP64": torch.float64,
}


class TritonPythonModel:
    def initialize(self, args):
        # Long computations yield the cores to the steps that take a millisecond; alone they get all the same.
        os.nice(NICENESS)
        config = bls.ModelConfig(args)
        config.refuse_gpu("The stand-in for the pytorch backend runs on the CPU; use a server with the C++ backend.")
        config.refuse_parameters_except(
            "INTRA_OP_THREAD_COUNT",
            "INTER_OP_THREAD_COUNT",
            "INFERENCE_MODE",
            "STAND_IN_CHUNK_ROWS",
            why="the stand-in for the pytorch backend",
        )
        if "INTRA_OP_THREAD_COUNT" in config.parameters:
            torch.set_num_threads(config.integer("INTRA_OP_THREAD_COUNT", 1))
        if "INTER_OP_THREAD_COUNT" in config.parameters:
            torch.set_num_interop_threads(config.integer("INTER_OP_THREAD_COUNT", 1))
        self.inference_mode = config.boolean("INFERENCE_MODE", True)
        self.chunk_rows = config.integer("STAND_IN_CHUNK_ROWS", config.raw["max_batch_size"] or 1)
        self.inputs = self.positions(config, config.inputs)
        self.outputs = self.positions(config, config.outputs)
        self.name = config.name
        self.model = torch.jit.load(config.artifact("model.pt"), map_location="cpu").eval()

    @staticmethod
    def positions(config, tensors):
        """Return the tensors' names in the order of their `__index`."""
        names = {}
        for tensor in tensors:
            stem, _, index = tensor["name"].rpartition("__")
            if not stem or not index.isdecimal():
                raise bls.ConfigError(f"{config.name}.{tensor['name']}: expected a name of the form NAME__0.")
            if tensor["data_type"] not in DTYPES:
                raise bls.ConfigError(
                    f"{config.name}.{tensor['name']}: {tensor['data_type']} cannot be exchanged with TorchScript; "
                    f"expected one of {', '.join(DTYPES)}."
                )
            names[int(index)] = tensor["name"]
        if sorted(names) != list(range(len(tensors))):
            raise bls.ConfigError(f"{config.name}: expected indices from __0 without a gap, got {sorted(names)}.")
        return [names[index] for index in sorted(names)]

    def execute(self, requests):
        return bls.answer_merged(requests, self.forward)

    def forward(self, inputs):
        tensors = [torch.from_numpy(inputs[name]) for name in self.inputs]
        with torch.inference_mode(self.inference_mode), torch.no_grad():
            chunks = [self.run(chunk) for chunk in zip(*(t.split(self.chunk_rows) for t in tensors), strict=True)]
        return {
            name: torch.cat(parts).numpy() for name, parts in zip(self.outputs, zip(*chunks, strict=True), strict=True)
        }

    def run(self, inputs):
        answer = self.model(*inputs)
        answer = answer if isinstance(answer, tuple) else (answer,)
        if len(answer) != len(self.outputs) or not all(isinstance(part, torch.Tensor) for part in answer):
            raise TypeError(f"{self.name}: expected {len(self.outputs)} tensors from the model, got {answer!r:.80}.")
        return answer
