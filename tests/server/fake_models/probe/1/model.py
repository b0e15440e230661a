"""What a model can see and do: each method is a probe, which the parameter `probe` names."""

import asyncio
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


def outputs(**arrays):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])


def said(value):
    return outputs(JSON=np.array([json.dumps(value)], np.object_))


def error_of(function):
    """The class and words of what a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def tensor(request, name):
    return pb_utils.get_input_tensor_by_name(request, name)


def call(model="doubler", x=((1, 2),), dtype=np.float32, name="x", wanted=("y",), **options):
    """A request to a child."""
    inputs = [pb_utils.Tensor(name, np.array(x, dtype))]
    return pb_utils.InferenceRequest(model_name=model, inputs=inputs, requested_output_names=list(wanted), **options)


def read(response):
    """A response as (error's code and words, outputs)."""
    if response.has_error():
        return [str(response.error().code()).rpartition(".")[2].partition(":")[0], response.error().message()], {}
    return None, {each.name(): each.as_numpy().tolist() for each in response.output_tensors()}


class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.cancelled = None
        self.counter = pb_utils.MetricFamily(name="probe_n", description="d", kind=pb_utils.MetricFamily.COUNTER)
        self.gauge = pb_utils.MetricFamily(name="probe_level", description="d", kind=pb_utils.MetricFamily.GAUGE)
        self.metrics = self.counter.Metric(labels={"a": "b"}), self.gauge.Metric(labels={})

    def execute(self, requests):
        answers = []
        for request in requests:
            name = json.loads(request.parameters()).get("probe", "given")
            answers += getattr(self, name)(request)
        return answers

    def given(self, request):
        seen = {"parameters": request.parameters(), "id": request.request_id(), "timeout": request.timeout()}
        seen["outputs"] = sorted(request.requested_output_names())
        seen["inputs"] = sorted(each.name() for each in request.inputs())
        seen["absent"] = tensor(request, "absent") is None
        return [said(seen)]

    def arguments(self, request):
        return [said(self.args)]

    def echo(self, request):
        answers = {}
        for each in request.inputs():
            array = each.as_numpy()
            array[...] = array.copy()  # it may be written to
            answers[f"{each.name()}_OUT"] = array
            dtype, shape = str(array.dtype), each.shape()
        return [outputs(**answers, JSON=np.array([json.dumps([dtype, shape])], np.object_))]

    def bf16(self, request):
        given = tensor(request, "BF16")
        words = error_of(given.as_numpy)
        echoed = pb_utils.Tensor.from_dlpack("BF16_OUT", given)
        text = pb_utils.Tensor("JSON", np.array([json.dumps(words)], np.object_))
        return [pb_utils.InferenceResponse([echoed, text])]

    def dlpack(self, request):
        given = tensor(request, "FP32")
        shared = pb_utils.Tensor.from_dlpack("t", given)
        return [said([np.from_dlpack(given).tolist(), shared.name(), shared.as_numpy().tolist()])]

    def text_dlpack(self, request):
        given = tensor(request, "STRING")
        return [said([error_of(given.to_dlpack), error_of(given.__dlpack__)])]

    def refused_tensors(self, request):
        arrays = {
            "str": np.array(["a"]),
            "complex": np.array([1j]),
            "date": np.array(["2020-01-01"], "M8[D]"),
            "big-endian": np.array([1], ">f4"),
        }
        words = {name: error_of(lambda array=array: pb_utils.Tensor("t", array)) for name, array in arrays.items()}
        words["list"] = error_of(lambda: pb_utils.Tensor("t", [1])).partition(":")[0]
        words["dlpack"] = error_of(lambda: pb_utils.Tensor.from_dlpack("t", 5))
        words["code"] = error_of(lambda: pb_utils.TritonError("m", 3)).partition(":")[0]
        words["error"] = error_of(lambda: pb_utils.InferenceResponse(error="m")).partition(":")[0]
        return [said(words)]

    def strided(self, request):
        arrays = np.arange(6, dtype=np.int64), np.arange(6, dtype=np.float32).reshape(2, 3)
        kept = np.arange(2, dtype=np.float64)
        same = pb_utils.Tensor("t", kept).as_numpy() is kept
        turned = pb_utils.Tensor("t", arrays[1].T).as_numpy().tolist()
        return [outputs(INT64_OUT=arrays[0][::2], JSON=np.array([json.dumps([same, turned])], np.object_))]

    def texts(self, request):
        return [outputs(STRING_OUT=np.array(["ä", b"\xff\x00", ""], np.object_), JSON=np.array([b"[]"]))]

    def fail(self, request):
        code = getattr(pb_utils.TritonError, json.loads(request.parameters())["code"])
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("as it was told", code))]

    def stumble(self, request):
        def inner():
            raise KeyError("no\nsuch")

        inner()

    def both(self, request):
        tensors = [pb_utils.Tensor("JSON", np.array(["1"], np.object_))]
        return [pb_utils.InferenceResponse(tensors, pb_utils.TritonError("all the same"))]

    def odd_outputs(self, request):
        return [outputs(nonsense=np.zeros(2), FP32_OUT=np.zeros(2, np.float64), JSON=np.array(["1"], np.object_))]

    def nothing(self, request):
        return [pb_utils.InferenceResponse()]

    def two_answers(self, request):
        return [said(1), said(2)]

    def no_response(self, request):
        return [5]

    def sender(self, request):
        sender = request.get_response_sender()
        words = [error_of(lambda: sender.send(flags=0)), error_of(lambda: sender.send(said(1), flags=8))]
        sender.send(said(words), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return [None]

    def sent_twice(self, request):
        sender = request.get_response_sender()
        sender.send(said("first"), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.words = error_of(lambda: sender.send(said("second"), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL))
        return [None]

    def words_of_last_time(self, request):
        return [said(self.words)]

    def wait_for_cancellation(self, request):
        for _ in range(500):
            if request.is_cancelled():
                break
            time.sleep(0.01)
        self.words = request.is_cancelled()
        return [said(None)]

    def children(self, request):
        calls = {
            "plain": call(),
            "all outputs": call(wanted=()),
            "unknown model": call("absent"),
            "unknown input": call(name="q"),
            "unknown output": call(wanted=("z",)),
            "no input": pb_utils.InferenceRequest(model_name="doubler", inputs=[], requested_output_names=["y"]),
            "dtype": call(dtype=np.float64),
            "too many rows": call(x=np.zeros((5, 2))),
            "error": call(parameters={"fail": "INVALID_ARG"}),
            "exception": call(parameters={"raise": True}),
            "decoupled": call("counter", [2], np.int32, "n", ["i"]),
        }
        answers = {name: read(each.exec()) for name, each in calls.items()}
        answers["all outputs"][1].pop("seen")
        return [said(answers)]

    def wrong_shape(self, request):
        return [said([read(call(x=x).exec())[0] for x in (((1, 2, 3),), (1, 2))])]

    def passed_on(self, request):
        parameters = {"text": "ä", "number": 3, "switch": True}
        made = call(wanted=["seen", "y"], request_id="an id", timeout=7_000_000, parameters=parameters)
        return [said(json.loads(read(made.exec())[1]["seen"][0][0]))]

    def refused_parameters(self, request):
        return [said([error_of(lambda value=value: call(parameters={"a": value})) for value in (1.5, None, [1])])]

    def refused_calls(self, request):
        words = [error_of(lambda: call(priority=3)), error_of(lambda: pb_utils.InferenceRequest(model_name="doubler"))]
        return [said([each.partition(":")[0] for each in words])]

    def streams(self, request):
        def answers(*arguments):
            return [read(each) for each in call(*arguments).exec(decoupled=True)]

        counter = [answers("counter", [n], np.int32, "n", ["i"]) for n in (0, 2)]
        return [said([*counter, answers()])]

    def asynchronous(self, request):
        async def both():
            return await asyncio.gather(call().async_exec(), call(x=((3, 4),)).async_exec())

        return [said([read(response) for response in asyncio.run(both())])]

    def count(self, request):
        counter, gauge = self.metrics
        counter.increment(2)
        counter.increment(0.5)
        gauge.set(3)
        gauge.increment(-1)
        return [said([counter.value(), gauge.value()])]

    def helpers(self, request):
        config = json.loads(self.args["model_config"])
        return [
            said(
                {
                    "input": pb_utils.get_input_config_by_name(config, "FP16")["data_type"],
                    "output": pb_utils.get_output_config_by_name(config, "BOOL_OUT")["dims"],
                    "none": pb_utils.get_output_config_by_name(config, "absent"),
                    "dtypes": [
                        np.dtype(pb_utils.triton_string_to_numpy(each["data_type"])).name
                        for each in config["input"]
                        if each["data_type"] != "TYPE_BF16"
                    ],
                    "decoupled": pb_utils.using_decoupled_model_transaction_policy(config),
                    "final": pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
                    "ready": [pb_utils.is_model_ready("doubler"), pb_utils.is_model_ready("absent")],
                }
            )
        ]
