"""Adds up X over the steps of a sequence; its config's parameter `leaks` makes sequences share one sum."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.leaks = json.loads(args["model_config"])["parameters"]["leaks"]["string_value"] == "true"
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        key = 0 if self.leaks else int(arrays["ID"].ravel()[0])
        if arrays["START"].any():
            self.sums[key] = np.zeros_like(arrays["X"])
        self.sums[key] = self.sums[key] + arrays["X"]
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", self.sums[key])])
