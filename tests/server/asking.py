"""Requests to the orchestrator, or one made from it, with all that a request can carry."""

import time

import numpy as np
import tritonclient.grpc as triton


def tensors(excerpts, weights):
    """Make one request's inputs from texts and numbers."""
    excerpt = triton.InferInput("excerpt", [len(excerpts), 1], "BYTES")
    excerpt.set_data_from_numpy(np.array([text.encode() for text in excerpts], np.object_)[:, None])
    weight = triton.InferInput("BERT_WEIGHT", [len(excerpts), 1], "FP32")
    weight.set_data_from_numpy(np.array(weights, np.float32)[:, None])
    return [excerpt, weight]


def ask(client, excerpts, weights, model="orchestrator", **options):
    """Return SCORE, float32 [rows], and ROUTE, texts; options go to `infer`, such as `parameters` and `timeout`."""
    answer = client.infer(model, tensors(excerpts, weights), **options)
    return answer.as_numpy("SCORE")[:, 0], [route.decode() for route in answer.as_numpy("ROUTE")[:, 0]]


def rows_seen(client, model):
    """Return how many rows a model has inferred since it was loaded. Triton counts them after it has answered, so this
    waits until it counts no more."""
    before, now = None, rows_so_far(client, model)
    while before != now:
        time.sleep(0.2)
        before, now = now, rows_so_far(client, model)
    return now


def rows_so_far(client, model):
    """Return how many rows a model has inferred and Triton has counted, perhaps while it goes on."""
    [stats] = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(stats.get("inference_count", 0))
