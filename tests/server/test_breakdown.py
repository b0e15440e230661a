"""Where the time goes, on the real Triton: counted exactly, and one request traced step by step."""

from pathlib import Path

import asking
import psutil
import pytest

from dualpath.compare.breakdown import Recorder, timelines
from dualpath.compare.connection import serialise

TEXT = "The cat sat on the mat."
MODELS = {"A": ("ensemble_all", ""), "B": ("orchestrator", "1")}


@pytest.fixture(scope="module")
def recorded(server, client):
    """Turns of both: requests of two rows, of which one needs BERT, to A five and to B six."""
    recorder = Recorder(server.grpc_url, MODELS, server.metrics_url, server.pid)
    for n_requests in (2, 3):
        for name, extra in (("A", 0), ("B", 0 if n_requests == 2 else 1)):
            with recorder.turn(name):
                for _ in range(n_requests + extra):
                    client.infer(MODELS[name][0], asking.tensors([TEXT, TEXT], [0.5, 0.0]))
    return recorder


def test_every_step_is_counted_for_the_contender_that_caused_it(recorded):
    assert {(step.contender, step.model): step.n_rows for step in recorded.steps()} == {
        ("A", "ensemble_all"): 10,
        ("A", "preprocess"): 10,
        ("A", "bert-large"): 10,
        ("A", "cuml"): 10,
        ("A", "postprocess"): 10,
        ("B", "orchestrator"): 12,
        ("B", "bert-large"): 6,
        ("B", "cuml"): 12,
    }
    assert all(step.compute_ms > 0 for step in recorded.steps())


def test_stages_and_routes_are_counted_exactly(recorded):
    stages = recorded.stages()
    assert {(stage.contender, stage.name): stage.n for stage in stages if stage.mean_ms is not None} == {
        ("B", "request"): 6,
        ("B", "tokens"): 6,
        ("B", "features"): 6,
        ("B", "bert-large"): 6,
        ("B", "cuml"): 6,
    }
    routes = {(stage.contender, stage.name): stage.n for stage in stages if stage.mean_ms is None}
    assert routes == {("B", "bert+cuml"): 6, ("B", "cuml"): 6}
    durations = {stage.name: stage.mean_ms for stage in stages if stage.mean_ms is not None}
    assert 0 < durations["bert-large"] <= durations["request"]


def test_each_process_of_the_server_is_named(recorded):
    processes = recorded.processes()
    assert processes[0].name == "tritonserver"
    assert processes[-1].name == "client"
    assert {process.name.rsplit("_", 2)[0] for process in processes[1:-1]} == {
        "bert-large",
        "bert-large, engine",
        "cuml",
        "orchestrator",
        "postprocess",
        "preprocess",
    }
    engines = [process for process in processes if process.name.startswith("bert-large, engine")]
    assert sum(process.cpu_s for process in engines) > 0  # BERT's instances wait for the process that computes
    assert all(process.rss_mb > 10 for process in processes)


def test_nothing_has_to_be_told_of_a_server_on_this_machine(server, recorded):
    assert recorded.notes == []
    recorder = Recorder(server.grpc_url, MODELS)
    assert recorder.notes == []
    with recorder.turn("A"):
        pass
    assert recorder.processes()[0].pid == psutil.Process(server.pid).pid


def requests(**weights):
    return {
        f"{model} {weight}": serialise(model, asking.tensors([TEXT], [weight])) for model, weight in weights.items()
    }


def traced(server, **weights):
    """Trace one request of each; give the spans below it by name, and the request's own."""
    spans, notes = timelines(server.grpc_url, requests(**weights))
    assert notes == []
    [root] = [span for span in spans if span.depth == 0]
    below = {span.name: span for span in spans if span.depth == 1}
    for span in spans:
        assert root.start_ms == 0 <= span.start_ms <= span.end_ms <= root.end_ms
    return root, below


def models(below):
    return {name for name in below if " " not in name and ":" not in name}


def test_a_request_through_the_ensemble_shows_its_four_steps(server):
    root, below = traced(server, ensemble_all=0.5)
    assert root.name == "ensemble_all"
    assert models(below) == {"preprocess", "bert-large", "cuml", "postprocess"}
    bert, forest = below["bert-large"], below["cuml"]
    assert max(bert.start_ms, forest.start_ms) < min(bert.end_ms, forest.end_ms)  # side by side
    assert below["preprocess"].start_ms < min(bert.start_ms, forest.start_ms)
    assert below["postprocess"].start_ms >= max(bert.start_ms, forest.start_ms)


def test_a_request_through_the_orchestrator_shows_its_children_and_its_own_work(server):
    root, below = traced(server, orchestrator=0.5)
    assert root.name == "orchestrator"
    assert models(below) == {"bert-large", "cuml"}
    assert "orchestrator itself" in below


def test_a_request_of_weight_0_through_the_orchestrator_has_no_step_in_bert(server):
    _, below = traced(server, orchestrator=0.0)
    assert models(below) == {"cuml"}


def test_tracing_is_as_before_afterwards_and_leaves_nothing_behind(server, client):
    before = client.get_trace_settings(as_json=True)
    assert before["settings"]["trace_level"] == {"value": ["OFF"]}
    traced(server, orchestrator=0.5)
    for model in (None, "orchestrator"):
        assert client.get_trace_settings(model, as_json=True) == before
    file = Path(before["settings"]["trace_file"]["value"][0])
    assert file.parent.is_dir()
    assert list(file.parent.glob(f"{file.name}*")) == []


def test_the_orchestrator_answers_as_ever_while_an_operator_traces_all_requests(server, client):
    """Its children are called after Triton has freed the trace: they may not carry it."""
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "-1", "log_frequency": "0"}
    client.update_trace_settings("orchestrator", settings)
    try:
        for _ in range(20):
            client.infer("orchestrator", asking.tensors([TEXT, TEXT], [0.5, 0.0]), client_timeout=30)
    finally:
        client.update_trace_settings("orchestrator", dict.fromkeys(settings))
