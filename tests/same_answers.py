"""Ask two models the same: made-up requests for any config, and answers that can be compared as they are."""

import queue
import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import tritonclient.grpc as grpcclient
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


def differences(client, config, models, random, n_requests, parts):
    """Ask two models the same and say where they differ.

    Args:
        config: of the first model.
        parts: names of the models that a request may ask to fail.
    Returns:
        what differs, and how many requests were answered and how many failed.
    """
    found, n_answered, n_failed = [], 0, 0
    for turn in range(n_requests):
        inputs = made_up(config, random, n_rows=1 + turn % 4, leave_out=0.5)
        parameters = {"turn": turn}
        if turn % 3 == 2:
            parameters["fail"] = str(random.choice(parts))
        expected, given = (ask(client, model, inputs, parameters=parameters) for model in models)
        if not isinstance(expected, Failure):
            n_answered += 1
            if expected != given:
                found.append(f"{models[0]}, request {turn}: expected {expected}, got {given}")
            continue
        n_failed += 1
        # Of several steps that fail at the same time, any may be the one that is named.
        failing = {step_of(expected, parts)}
        if "fail" in parameters:
            failing.add(step_of(ask(client, models[0], inputs, parameters={"turn": turn}), parts))
        for _ in range(10):
            if isinstance(given, Failure) and step_of(given, parts) in failing:
                break
            failing.add(step_of(ask(client, models[0], inputs, parameters=parameters), parts))
            given = ask(client, models[1], inputs, parameters=parameters)
        else:
            found.append(f"{models[0]}, request {turn}: expected a failure at {failing}, got {given}")
    return found, n_answered, n_failed


def step_of(failure, parts):
    """Return the name of the model that a failure's message names last; "" if there is none."""
    if not isinstance(failure, Failure):
        return ""
    named = [word for word in re.findall(r"[\w-]+", failure.message) if word in parts or word.startswith("graph")]
    return named[-1] if named else failure.message
