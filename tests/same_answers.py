"""Ask two models the same: made-up requests for any config, and answers that can be compared as they are."""

import queue
from dataclasses import dataclass
from functools import partial

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, triton_to_np_dtype

from dualpath.convert.graph import dtype


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
    if kind in ("BF16", "FP16", "FP32", "FP64"):
        return random.standard_normal(shape).astype(np.float32 if kind == "BF16" else triton_to_np_dtype(kind))
    info = np.iinfo(triton_to_np_dtype(kind))
    return random.integers(info.min, info.max, shape, info.dtype, endpoint=True)


def ask(client, model, inputs, **options):
    """Return a model's outputs as bytes by name, or the Failure."""
    try:
        return _outputs(client.infer(model, _tensors(inputs), **options))
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
            answer, error = answers.get(timeout=30)
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
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _outputs(result):
    found = {}
    for output in result.get_response().outputs:
        array = result.as_numpy(output.name)
        content = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
        found[output.name] = output.datatype, tuple(output.shape), content
    return found
