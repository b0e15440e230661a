"""Ask two models the same: made-up requests for any config, and answers that can be compared as they are."""

import queue
import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from dualpath.convert.graph import dtype

PATIENCE_S = 60
"""How long an answer may take: reached only if something hangs."""


@dataclass(frozen=True)
class Failure:
    """What a model answered with if not with outputs."""

    message: str


def made_up(config, random, n_rows=1, sizes=(1, 4), leave_out=0.0):
    """Return inputs for a config: arrays by name.

    Args:
        n_rows: rows, if the model has a batch dimension.
        sizes: least and largest size of a dimension that varies.
        leave_out: share of the optional inputs that are left out.
    """
    inputs = {}
    for tensor in config.input:
        if tensor.optional and random.random() < leave_out:
            continue
        dims = [int(random.integers(*sizes, endpoint=True)) if size < 0 else size for size in tensor.dims]
        shape = ([n_rows] if config.max_batch_size else []) + dims
        inputs[tensor.name] = dtype(tensor), values(dtype(tensor), shape, random)
    return inputs


def values(kind, shape, random):
    if kind == "BYTES" or kind == "STRING":
        texts = [f"text {random.integers(1 << 30)}".encode() for _ in range(int(np.prod(shape)))]
        return np.array(texts, np.object_).reshape(shape)
    if kind == "BOOL":
        return random.random(shape) < 0.5
    if kind == "BF16":
        return (random.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if kind in ("FP16", "FP32", "FP64"):
        return random.standard_normal(shape).astype(triton_to_np_dtype(kind))
    info = np.iinfo(triton_to_np_dtype(kind))
    return random.integers(info.min, info.max, shape, info.dtype, endpoint=True)


def ask(client, model, inputs, **options):
    """Return a model's outputs as bytes by name, or the Failure."""
    try:
        return _outputs(client.infer(model, _tensors(inputs), client_timeout=PATIENCE_S, **options))
    except InferenceServerException as error:
        return Failure(error.message())


def ask_by_http(client, model, inputs, **options):
    """As `ask`, by HTTP and without BF16.

    Triton 24.10 hangs for ever if a step of an ensemble fails while the gRPC thread that took the request still starts
    other steps: each holds a lock that the other wants. HTTP has no such lock.
    """
    tensors = []
    for name, (kind, array) in inputs.items():
        tensor = httpclient.InferInput(name, array.shape, "BYTES" if kind == "STRING" else kind)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    try:
        result = client.infer(model, tensors, **options)
    except InferenceServerException as error:
        return Failure(error.message())
    return {
        output["name"]: (output["datatype"], tuple(output["shape"]), result.as_numpy(output["name"]).tolist())
        for output in result.get_response()["outputs"]
    }


def ask_stream(client, model, inputs, **options):
    """Return the answers of a decoupled model, each as `ask` returns it."""
    answers = queue.Queue()
    client.start_stream(partial(_put, answers))
    try:
        client.async_stream_infer(model, _tensors(inputs), enable_empty_final_response=True, **options)
        found = []
        while True:
            answer, error = answers.get(timeout=PATIENCE_S)
            if error is not None:
                return [*found, Failure(error.message())]
            response = answer.get_response()
            if response.outputs:
                found.append(_outputs(answer))
            if response.parameters["triton_final_response"].bool_param:
                return found
    finally:
        client.stop_stream()


def _put(answers, result, error):
    answers.put((result, error))


def _tensors(inputs):
    tensors = []
    for name, (kind, array) in inputs.items():
        tensor = grpcclient.InferInput(name, array.shape, "BYTES" if kind == "STRING" else kind)
        if kind == "BF16":  # which NumPy does not have: its bits
            tensor._raw_content = array.tobytes()
        else:
            tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _outputs(result):
    response = result.get_response()
    return {
        output.name: (output.datatype, tuple(output.shape), content)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def differences(client, ensemble, models, random, n_requests, parts):
    """Ask an ensemble and its BLS model the same and say where they differ.

    Args:
        client: an HTTP client.
        ensemble: as `dualpath.convert.graph.load_ensemble` returns it.
        models: the names of the two.
        parts: names of the models that a request may ask to fail.
    Returns:
        what differs, and how many requests were answered and how many failed.
    """
    found, n_answered, n_failed = [], 0, 0
    for turn in range(n_requests):
        inputs = made_up(ensemble.model.message, random, n_rows=int(random.choice([1, 1, 1, 2, 4])), leave_out=0.5)
        parameters = {"turn": turn}
        if turn % 3 == 2:
            parameters["fail"] = str(random.choice(parts))
        expected, given = (ask_by_http(client, model, inputs, parameters=parameters) for model in models)
        if not isinstance(expected, Failure):
            n_answered += 1
            if expected != given:
                found.append(f"{models[0]}, request {turn}: expected {expected}, got {given}")
            continue
        n_failed += 1
        if not isinstance(given, Failure) or not may_fail_first(
            ensemble.graph, *(step_of(f) for f in (expected, given))
        ):
            found.append(f"{models[0]}, request {turn}: expected {expected}, got {given}")
    return found, n_answered, n_failed


def may_fail_first(graph, one, other):
    """Tell whether two failures are of the same model, or of steps that do not wait for each other.

    Of the latter both fail, and the one that is named is the one that happened to be quicker.
    """
    if one == other:
        return True
    for a in (step for step in graph.steps if one in models_of(step)):
        for b in (step for step in graph.steps if other in models_of(step)):
            if a is b and a.graph and may_fail_first(a.graph, one, other):
                return True
            if a is not b and not waits(graph, a, b) and not waits(graph, b, a):
                return True
    return False


def models_of(step):
    """Return the names of a step's model and, if that is an ensemble, of all in it."""
    return {step.model}.union(*(models_of(inner) for inner in (step.graph.steps if step.graph else ())))


def waits(graph, step, other):
    """Tell whether a step needs, directly or not, what another gives."""
    return any(before is other or waits(graph, before, other) for before in graph.steps if before.gives & step.needs)


def step_of(failure):
    """Return the name of the model that a failure's message names last; the message if it names none."""
    named = re.findall(r"\b(?:part|graph)\d+\b", failure.message)
    return named[-1] if named else failure.message
