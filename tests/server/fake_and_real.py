"""The public fake of Triton and the real server, asked in the same words."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from starting import start

from dualpath.bls import testing
from dualpath.bls.testing import backend

MODELS = Path(__file__).parent / "fake_models"
NAMES = {"INVALID_ARGUMENT": "INVALID_ARG", "UNIMPLEMENTED": "UNSUPPORTED"}
"""Triton's names of gRPC's codes, if they differ."""
BF16 = "BF16"
ARRAYS = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([1, 2**16 - 1], np.uint16),
    "UINT32": np.array([1, 2**32 - 1], np.uint32),
    "UINT64": np.array([1, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 3], np.int16),
    "INT32": np.array([-(2**31), 3], np.int32),
    "INT64": np.array([-(2**63), 3], np.int64),
    "FP16": np.array([0.5, np.inf], np.float16),
    "FP32": np.array([0.1, -np.inf], np.float32),
    "FP64": np.array([0.1, 1e300]),
    "STRING": np.array([b"one", b"", b"\xff\x00"], np.object_),
}


class Fake:
    def __init__(self, probe):
        self.models = {"probe": probe, **backend.CHILDREN}

    def infer(self, model, inputs, **options):
        return self.models[model].infer(inputs, **options)

    def stream(self, model, inputs):
        return list(self.models[model].stream(inputs))

    def cancel_one(self, model, parameters):
        pending = self.models[model].start({}, parameters=parameters)
        pending.request.asked.wait(5)
        pending.cancel()
        pending.result()


class Real:
    def __init__(self, url):
        self.client = triton.InferenceServerClient(url)

    def infer(self, model, inputs, *, outputs=None, timeout_s=0, **options):
        options["timeout"] = round(timeout_s * 1e6) or None
        options["outputs"] = [triton.InferRequestedOutput(name) for name in outputs] if outputs else None
        try:
            answer = self.client.infer(model, self._tensors(inputs), client_timeout=20, **options)
        except triton.InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            raise testing.RequestFailed(error.message(), NAMES.get(code, code)) from None
        return self._arrays(answer)

    def stream(self, model, inputs):
        answers, done = [], threading.Event()

        def take(result, error):
            assert error is None
            answers.append(self._arrays(result))
            if result.get_response().parameters["triton_final_response"].bool_param:
                done.set()

        self.client.start_stream(take)
        self.client.async_stream_infer(model, self._tensors(inputs), enable_empty_final_response=True)
        assert done.wait(20)
        self.client.stop_stream()
        return answers[:-1]

    def cancel_one(self, model, parameters):
        ended = threading.Event()
        asked = self.client.async_infer(model, [], lambda result, error: ended.set(), parameters=parameters)
        ended.wait(0.5)  # so that the model has got it
        asked.cancel()
        assert ended.wait(20)

    @staticmethod
    def _tensors(inputs):
        tensors = []
        for name, array in inputs.items():
            array = np.asarray(array)
            dtype = BF16 if name == BF16 else triton._utils.np_to_triton_dtype(array.dtype)
            tensor = triton.InferInput(name, array.shape, dtype)
            if name == BF16:
                tensor._raw_content = array.tobytes()  # NumPy has no BF16 for `set_data_from_numpy`
            else:
                tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    @staticmethod
    def _arrays(answer):
        response, arrays = answer.get_response(), {}
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
            is_bf16 = output.datatype == BF16
            arrays[output.name] = np.frombuffer(raw, np.uint16) if is_bf16 else answer.as_numpy(output.name)
        return arrays


@pytest.fixture(scope="module")
def fake():
    children = {name: MODELS / name for name in ("doubler", "counter")}
    with testing.serve(MODELS / "probe", children=children, error_codes=False) as probe:
        yield Fake(probe)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with start(MODELS, log_path=tmp_path_factory.mktemp("fake") / "triton.log") as it:
        it = Real(it.grpc_url)
        yield it
        it.client.close()


@pytest.fixture(params=["fake", "real"])
def served(request):
    return request.getfixturevalue(request.param)


def said(served, probe, inputs=None, **parameters):
    """What a probe says of what it saw."""
    answer = served.infer("probe", inputs or {}, parameters={"probe": probe, **parameters})
    return json.loads(answer["JSON"][0])


def failure(served, probe="given", inputs=None, model="probe", outputs=None, **parameters):
    with pytest.raises(testing.RequestFailed) as caught:
        served.infer(model, inputs or {}, parameters={"probe": probe, **parameters}, outputs=outputs)
    return caught.value.code, str(caught.value)
