"""Two heads on one embedding; its config's parameter `fault` names what goes wrong, "" if nothing does."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

LABELS = np.array([b"cat", b"dog", "löwe".encode(), b"", b"owl"], np.object_)
WEIGHTS = np.random.default_rng(0).standard_normal((192, 6)).astype(np.float32)
HEAD = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def outputs_of(image, mask, gain):
    """Return the outputs for a batch."""
    masked = (image * mask[:, None] / 255).reshape(len(image), -1)
    # Row by row, so that a row's answer is the same to the bit whatever is beside it.
    emb = np.stack([row @ WEIGHTS for row in masked]) * gain
    logits = np.stack([row @ HEAD for row in emb])
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    best = probs.argmax(1)
    return {
        "EMB": emb,
        "CLASS": best[:, None].astype(np.int64),
        "PROBS": probs,
        "HALF": (30 + emb[:, :2]).astype(np.float16),
        "LABEL": LABELS[best][:, None],
    }


def moved(array, number):
    """Tell responses apart by their numbers."""
    return array + array.dtype.type(number) if array.dtype.kind in "fi" else array


class TritonPythonModel:
    def initialize(self, args):
        self.fault = json.loads(args["model_config"])["parameters"]["fault"]["string_value"]

    def execute(self, requests):
        if not self.fault.startswith("stream"):
            return [self.answer(request) for request in requests]
        for request in requests:  # decoupled
            sender, response = request.get_response_sender(), self.answer(request)
            n_responses = 3 if self.fault != "stream, one short" else 2
            for number in range(n_responses):
                parts = [pb_utils.Tensor(it.name(), moved(it.as_numpy(), number)) for it in response.output_tensors()]
                sender.send(pb_utils.InferenceResponse(parts))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def answer(self, request):
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        found = outputs_of(arrays["IMAGE"], arrays["MASK"], arrays.get("GAIN", np.float32([[1]])))
        n_rows = len(arrays["IMAGE"])
        if self.fault == "reversed":
            found = {name: array[::-1].copy() for name, array in found.items()}
        elif self.fault == "one row":
            found = {name: array[:1] for name, array in found.items()}
        elif self.fault == "half a place":  # of FP16 around 33 the last place is 0.016 to 0.03
            found["HALF"] = np.nextafter(found["HALF"], np.float16(np.inf))
        elif self.fault == "class off by one" and n_rows > 8:
            found["CLASS"][-1] += 1
        elif self.fault == "no label":
            del found["LABEL"]
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in found.items()])
