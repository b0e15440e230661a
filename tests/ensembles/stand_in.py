"""A model.py for every stand-in: made-up outputs that depend on every value of every input, on parameters and version.

A request's parameter `fail` that names the model makes it fail. A model's parameter `leaves_out` names an output that
it gives for some requests only.
"""

import json
import time
import zlib

import numpy as np

from dualpath import bls
from dualpath.bls.triton import pb_utils

RANDOM = {
    "BOOL": lambda random, shape: random.random(shape) < 0.5,
    "FP16": lambda random, shape: random.standard_normal(shape).astype(np.float16),
    "FP32": lambda random, shape: random.standard_normal(shape).astype(np.float32),
    "FP64": lambda random, shape: random.standard_normal(shape),
    "BF16": lambda random, shape: (random.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    ),
}


class TritonPythonModel:
    def initialize(self, args):
        self.config = bls.ModelConfig(args)
        self.batched = self.config.raw["max_batch_size"] > 0
        self.decoupled = self.config.raw.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests):
        if self.decoupled:
            for request in requests:
                self.stream(request)
            return None
        return [self.answer(request, bls.answer_each) for request in requests]

    def answer(self, request, answer_each, turn=0):
        parameters = json.loads(request.parameters() or "{}")
        if parameters.pop("fail", None) == self.config.name:
            # Triton 24.10 hangs for ever if a step of an ensemble fails while the gRPC thread that took the request
            # still starts other steps: each holds a lock that the other wants.
            time.sleep(0.05)
            error = pb_utils.TritonError(f"{self.config.name} was asked to fail", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        seed = zlib.crc32(json.dumps([parameters, self.config.version, turn], sort_keys=True).encode())
        [response] = answer_each([request], lambda inputs: self.compute(inputs, seed), config=self.config)
        return response

    def stream(self, request):
        sender = request.get_response_sender()
        n_answers = 1 + sum(len(tensor.as_numpy()) for tensor in request.inputs()) % 4
        for turn in range(n_answers):
            sender.send(self.answer(request, bls.answer_each, turn))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def compute(self, inputs, seed):
        n_rows = len(next(iter(inputs.values()))) if self.batched else 1
        digests = [seed] * n_rows
        for name, array in sorted(inputs.items()):
            for i, row in enumerate(array if self.batched else [array]):
                content = b"\0".join(row.ravel()) if row.dtype == np.object_ else row.tobytes()
                digests[i] = zlib.crc32(name.encode() + content, digests[i])
        outputs = {}
        for output in self.config.outputs:
            if output["name"] == self.config.parameters.get("leaves_out") and digests[0] % 2:
                continue
            shape = self.shape(output, inputs)
            rows = [self.values(output, digest, shape) for digest in digests]
            outputs[output["name"]] = np.stack(rows) if self.batched else rows[0]
        return outputs

    def shape(self, output, inputs):
        """The row's shape, with the first varying size of an input for each that varies."""
        varying = [
            inputs[tensor["name"]].shape[self.batched + axis]
            for tensor in self.config.inputs
            for axis, size in enumerate(tensor["dims"])
            if tensor["name"] in inputs and int(size) < 0
        ]
        dims = output["reshape"]["shape"] if "reshape" in output else output["dims"]
        return tuple(int(size) if int(size) >= 0 else (varying or [3])[0] for size in dims)

    def values(self, output, digest, shape):
        dtype = output["data_type"].removeprefix("TYPE_")
        random = np.random.default_rng([digest, zlib.crc32(output["name"].encode())])
        if dtype == "STRING":
            texts = [f"{output['name']} {random.integers(1 << 30)}".encode() for _ in range(int(np.prod(shape)))]
            return np.array(texts, np.object_).reshape(shape)
        if dtype in RANDOM:
            return RANDOM[dtype](random, shape)
        info = np.iinfo(dtype.lower())
        return random.integers(info.min, info.max, shape, info.dtype, endpoint=True)
