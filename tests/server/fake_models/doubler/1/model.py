import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.args = args

    def execute(self, requests):
        return [self.answer(request, json.loads(request.parameters())) for request in requests]

    def answer(self, request, parameters):
        if "fail" in parameters:
            code = getattr(pb_utils.TritonError, parameters["fail"])
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("as it was told", code))
        if "raise" in parameters:
            raise ValueError("as it was told")
        seen = {
            "id": request.request_id(),
            "timeout": request.timeout(),
            "parameters": parameters,
            "outputs": sorted(request.requested_output_names()),
            "args": self.args,
        }
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        texts = np.full((len(x), 1), json.dumps(seen), np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x), pb_utils.Tensor("seen", texts)])
