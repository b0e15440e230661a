"""A gRPC server in this process that speaks as much of Triton's protocol as a comparison needs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from dualpath.compare.tensors import wire_dtype
from dualpath.readability.contract import EXCERPT, ROUTE, SCORE, WEIGHT


class Refusal(Exception):
    """Becomes INVALID_ARGUMENT."""


def lengths(inputs):
    """The length of each excerpt, weighted."""
    return {"SCORE": np.array([[len(text)] for text in inputs["excerpt"][:, 0]], np.float32) * inputs["BERT_WEIGHT"]}


@dataclass
class Model:
    """A model: its tensors, and what makes its outputs of its inputs, arrays by name."""

    infer: object = lengths
    inputs: tuple = (EXCERPT, WEIGHT)
    outputs: tuple = (SCORE,)
    max_batch_size: int = 512
    optional: frozenset = frozenset()
    config: dict = field(default_factory=dict)
    version: int = 1


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, models):
        self.models = models
        self.unimplemented = set()  # names of calls
        self.seen = []  # model and version of each request
        self.headers = {}  # by call, of the last one
        self._lock = threading.Lock()

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request, context):
        self._refuse("ServerMetadata", context)
        return service_pb2.ServerMetadataResponse(name="fake", version="0.0")

    def RepositoryIndex(self, request, context):
        self._refuse("RepositoryIndex", context)
        index = service_pb2.RepositoryIndexResponse()
        for name, model in self.models.items():
            index.models.add(name=name, version=str(model.version), state="READY")
        return index

    def ModelReady(self, request, context):
        self.headers["ModelReady"] = dict(context.invocation_metadata())
        return service_pb2.ModelReadyResponse(ready=request.name in self.models)

    def ModelConfig(self, request, context):
        model = self._model(request.name, context)
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=model.max_batch_size, **model.config)
        for described, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
            for tensor in tensors:
                data_type = model_config_pb2.DataType.Value(tensor.dtype)
                made = described.add(name=tensor.name, data_type=data_type, dims=tensor.dims)
                if tensor.name in model.optional:
                    made.optional = True
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request, context):
        self.headers["ModelInfer"] = dict(context.invocation_metadata())
        model = self._model(request.model_name, context)
        with self._lock:
            self.seen.append((request.model_name, request.model_version))
        arrays = {}
        for described, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            is_text = described.datatype == "BYTES"
            array = (
                deserialize_bytes_tensor(raw) if is_text else np.frombuffer(raw, triton_to_np_dtype(described.datatype))
            )
            arrays[described.name] = array.reshape(described.shape)
        try:
            outputs = model.infer(arrays)
        except Refusal as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        except Exception as error:
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        wanted = {output.name for output in request.outputs} or {tensor.name for tensor in model.outputs}
        for tensor in model.outputs:
            if tensor.name in outputs and tensor.name in wanted:
                array = outputs[tensor.name]
                response.outputs.add(name=tensor.name, datatype=wire_dtype(tensor), shape=array.shape)
                is_text = tensor.dtype == "TYPE_STRING"
                response.raw_output_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
        return response

    def _refuse(self, call, context):
        if call in self.unimplemented:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{call} is not allowed")

    def _model(self, name, context):
        if name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return self.models[name]


@contextmanager
def served(models, tls=None):
    """Serve models by name on a free port; give the address and the servicer.

    Args:
        tls: files of a certificate and its key.
    """
    server = grpc.server(ThreadPoolExecutor(16))
    servicer = Servicer(models)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    if tls:
        certificate, key = (file.read_bytes() for file in tls)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(None).wait()


def routed(inputs):
    """As `lengths`, with a route."""
    return {**lengths(inputs), "ROUTE": np.full((len(inputs["excerpt"]), 1), b"bert", np.object_)}


PAIR = {"ensemble_all": Model(), "orchestrator": Model(routed, outputs=(SCORE, ROUTE))}
