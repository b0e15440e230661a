"""A server in this process that counts, and traces, as Triton does; tests say what it has counted."""

import json
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

TRACING_OFF = {"trace_level": ["OFF"], "trace_rate": ["1000"], "trace_count": ["-1"], "log_frequency": ["0"]}


class CountingServicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's statistics and trace settings.

    Attributes:
        ensembles: names of the models that are ensembles.
        common: trace settings of all models that have none of their own.
        own: trace settings by model.
        seen: the requests that were inferred.
        trace: makes the text of a request's trace file; None writes none.
    """

    def __init__(self):
        self.ensembles = set()
        self.common = {**TRACING_OFF, "trace_mode": ["triton"], "trace_file": [""]}
        self.own = defaultdict(dict)
        self.seen = []
        self.trace = None
        self._counts = defaultdict(Counter)
        self._written = 0

    def count(self, model, n_rows, *, version="1", n_executions=1, queue_ms=0, compute_ms=0):
        """Let a model have worked."""
        worked = {"rows": n_rows, "executions": n_executions, "queue": queue_ms, "compute": compute_ms}
        self._counts[model, version].update(worked)

    def forget(self, model):
        """Load a model again."""
        for key in [key for key in self._counts if key[0] == model]:
            del self._counts[key]

    def ModelStatistics(self, request, context):
        response = service_pb2.ModelStatisticsResponse()
        for (name, version), counts in self._counts.items():
            stats = response.model_stats.add(
                name=name, version=version, inference_count=counts["rows"], execution_count=counts["executions"]
            )
            stats.inference_stats.queue.ns = int(counts["queue"] * 1e6)
            # What merged requests felt, each by itself, is more than what was computed.
            stats.inference_stats.compute_infer.ns = int(counts["compute"] * 1e6) * 1000
            if name not in self.ensembles:
                batch = stats.batch_stats.add(batch_size=1)
                batch.compute_infer.ns = int(counts["compute"] * 1e6) // 2
                batch.compute_input.ns = batch.compute_output.ns = int(counts["compute"] * 1e6) // 4
        return response

    def ModelConfig(self, request, context):
        response = service_pb2.ModelConfigResponse()
        response.config.platform = "ensemble" if request.name in self.ensembles else ""
        return response

    def TraceSetting(self, request, context):
        own = self.own[request.model_name] if request.model_name else self.common
        for name, value in request.settings.items():
            if name == "trace_file":
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "trace file location can not be updated")
            own[name] = list(value.value)
            if not value.value:
                del own[name]
        response = service_pb2.TraceSettingResponse()
        for name, values in {**self.common, **own}.items():
            response.settings[name].value.extend(values)
        return response

    def ModelInfer(self, request, context):
        self.seen.append(request)
        settings = {**self.common, **self.own[request.model_name]}
        if request.model_name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "broken: no answer")
        if self.trace and settings["trace_level"] == ["TIMESTAMPS"]:
            with open(f"{settings['trace_file'][0]}.{self._written}", "w") as file:
                file.write(self.trace(request, self._written))
            self._written += 1
        return service_pb2.ModelInferResponse(model_name=request.model_name)


@contextmanager
def counting_server():
    """Serve on a free port; give the address and the servicer."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = CountingServicer()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    servicer.stop = cache(lambda: server.stop(None).wait())
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        servicer.stop()


class Metrics:
    """The counters of BLS models, as Triton's metrics endpoint shows them."""

    def __init__(self):
        self._values = Counter()

    def stage(self, model, stage, n, seconds):
        """Let a stage have run n times."""
        self._values[f'bls_stage_seconds_count{{model="{model}",stage="{stage}"}}'] += n
        self._values[f'bls_stage_seconds_sum{{model="{model}",stage="{stage}"}}'] += seconds
        self._values[f'bls_stage_seconds_bucket{{le="+Inf",model="{model}",stage="{stage}"}}'] += n

    def rows(self, model, route, n):
        """Let rows have taken a route."""
        self._values[f'bls_rows_total{{model="{model}",route="{route}"}}'] += n

    def text(self):
        families = defaultdict(list)
        for series, value in self._values.items():
            families[series.partition("{")[0]].append(f"{series} {value}\n")
        parts = [f"# HELP {name} x\n# TYPE {name} counter\n{''.join(lines)}" for name, lines in families.items()]
        return "".join(parts) + '# TYPE nv_inference_count counter\nnv_inference_count{model="m",version="1"} 7\n'


@contextmanager
def metrics_endpoint(metrics):
    """Show metrics on a free port; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(metrics.text().encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def trace_file(*traces):
    """Write a trace file as Triton does: (id, model, parent id, request id, {stamp: ms}) each."""
    entries = []
    for number, model, parent, request, stamps in traces:
        described = {"id": number, "model_name": model, "model_version": 1}
        described |= {"request_id": request} if request else {}
        described |= {"parent_id": parent} if parent else {}
        entries.append(described)
        entries += [
            {"id": number, "timestamps": [{"name": name, "ns": 10**12 + round(ms * 1e6)}]}
            for name, ms in stamps.items()
        ]
    return json.dumps(entries, separators=(",", ":"))


def whole(start, end, queued=0.0):
    """The stamps of a request that ran from `start` to `end` and waited at first."""
    return {"REQUEST_START": start, "QUEUE_START": start, "COMPUTE_START": start + queued, "REQUEST_END": end}
