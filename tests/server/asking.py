"""Requests to the orchestrator, with everything that a request can carry."""

import numpy as np
import tritonclient.grpc as triton


def tensors(excerpts, weights):
    """Return the inputs of one request; excerpts are str."""
    inputs = [
        triton.InferInput(*named)
        for named in (("excerpt", [len(excerpts), 1], "BYTES"), ("BERT_WEIGHT", [len(excerpts), 1], "FP32"))
    ]
    inputs[0].set_data_from_numpy(np.array([text.encode() for text in excerpts], np.object_)[:, None])
    inputs[1].set_data_from_numpy(np.array(weights, np.float32)[:, None])
    return inputs


def ask(client, excerpts, weights, model="orchestrator", **options):
    """Return SCORE, float32 [rows], and ROUTE, a list of str. Options go to `infer`, such as `parameters`."""
    answer = client.infer(model, tensors(excerpts, weights), **options)
    return answer.as_numpy("SCORE")[:, 0], [route.decode() for route in answer.as_numpy("ROUTE")[:, 0]]
