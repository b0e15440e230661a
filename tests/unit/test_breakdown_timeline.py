"""Timelines from Triton's trace files, and the trace settings that are changed for them."""

import itertools

import psutil
import pytest
from counting_server import TRACING_OFF, counting_server, trace_file, whole
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from dualpath.compare.breakdown import timeline, timelines

ENSEMBLE = trace_file(
    (4, "post", 1, "r", whole(30, 31)),
    (3, "cuml", 1, "r", whole(2, 3)),
    (2, "bert", 1, "r", whole(2, 30, queued=4)),
    (1, "ensemble", 0, "r", {"REQUEST_START": 1, "QUEUE_START": 1, "GRPC_WAITREAD_START": -500, "REQUEST_END": 32}),
)


def shown(text, root=1):
    """The spans of a trace file's request: name, depth, begin and end in ms."""
    read = timeline.parse(text)
    spans = timeline.spans_of("A", read[root])
    assert {span.contender for span in spans} == {"A"}
    return [(span.name, span.depth, span.start_ms, span.end_ms) for span in spans]


def test_steps_lie_below_their_caller_in_order_with_their_queues_and_what_the_caller_does_itself():
    assert shown(ENSEMBLE) == [
        ("ensemble", 0, 0, 31),
        ("ensemble itself", 1, 0, 1),
        ("cuml", 1, 1, 2),
        ("cuml: queue", 2, 1, 1),
        ("bert", 1, 1, 29),
        ("bert: queue", 2, 1, 5),
        ("post", 1, 29, 30),
        ("post: queue", 2, 29, 29),
        ("ensemble itself", 1, 30, 31),
    ]


def test_a_caller_that_answers_after_execute_has_returned_ends_with_its_answer():
    early = {**whole(0, 2, queued=0.5), "INFER_RESPONSE_COMPLETE": 40, "GRPC_SEND_END": 41}
    text = trace_file((1, "bls", 0, "r", early), (2, "bert", 1, "", whole(1.5, 38)))
    assert shown(text) == [
        ("bls", 0, 0, 41),
        ("bls: queue", 1, 0, 0.5),
        ("bls itself", 1, 0.5, 1.5),
        ("bert", 1, 1.5, 38),
        ("bert: queue", 2, 1.5, 1.5),
        ("bls itself", 1, 38, 41),
    ]


def test_a_step_that_outlives_its_caller_lies_within_it():
    assert shown(trace_file((1, "e", 0, "r", whole(0, 5)), (2, "m", 1, "r", whole(0, 7))))[0] == ("e", 0, 0, 7)


def test_steps_of_steps_lie_deeper():
    chain = [(number, f"m{number}", number - 1, "r", whole(number, 20 - number)) for number in (1, 2, 3)]
    assert [(name, depth) for name, depth, *_ in shown(trace_file(*chain)) if " " not in name] == [
        ("m1", 0),
        ("m2", 1),
        ("m3", 2),
    ]


def test_a_request_that_never_ended_reaches_as_far_as_is_known():
    cut = {"REQUEST_START": 0, "QUEUE_START": 0, "COMPUTE_START": 3}
    assert shown(trace_file((1, "m", 0, "r", cut))) == [("m", 0, 0, 3), ("m: queue", 1, 0, 3)]


def test_a_request_id_with_quotes_in_it_spoils_no_other_request():
    spoilt = trace_file((9, "m", 0, "QUOTES", whole(0, 1)))[:-1].replace("QUOTES", 'a"b')
    assert shown(spoilt + "," + ENSEMBLE[1:])[0] == ("ensemble", 0, 0, 31)


@given(st.integers(0, len(ENSEMBLE)))
def test_a_file_that_is_cut_off_anywhere_gives_what_is_whole(length):
    whole_file = timeline.parse(ENSEMBLE)
    for number, trace in timeline.parse(ENSEMBLE[:length]).items():
        assert trace.stamps_ns.items() <= whole_file[number].stamps_ns.items()
        assert trace.model == whole_file[number].model


@given(st.text())
def test_a_file_of_anything_else_has_no_traces(text):
    assert timeline.parse(text) == {}


@pytest.fixture
def here(monkeypatch):
    """Makes this process the server that is seen."""
    monkeypatch.setattr(timeline, "find_server", lambda url: psutil.Process())


@pytest.fixture
def server(here, tmp_path):
    with counting_server() as (url, servicer):
        servicer.url = url
        servicer.common["trace_file"] = [str(tmp_path / "trace.json")]
        servicer.trace = lambda request, number: trace_file(
            (1, request.model_name, 0, request.id, whole(0, 10 + number))
        )
        yield servicer


def request(model):
    return service_pb2.ModelInferRequest(model_name=model, model_version="3").SerializeToString()


def test_each_contender_shows_its_request_of_median_duration(server):
    spans, notes = timelines(server.url, {"A": request("ensemble"), "B": request("bls")})
    roots = [(span.contender, span.name, span.start_ms, span.end_ms) for span in spans if span.depth == 0]
    assert roots == [("A", "ensemble", 0, 12), ("B", "bls", 0, 17)]  # of 10 to 14, and of 15 to 19
    assert notes == []
    assert {(seen.model_version, seen.parameters["trace_children"].bool_param) for seen in server.seen} == {("3", True)}


def test_slow_requests_are_traced_once(server, monkeypatch):
    seconds = itertools.count(0, 20)
    monkeypatch.setattr(timeline.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(timeline, "WRITTEN_S", 1000)
    timelines(server.url, {"A": request("ensemble")})
    assert len(server.seen) == 1


def test_trace_settings_are_put_back(server):
    timelines(server.url, {"A": request("ensemble")})
    assert server.own["ensemble"] == {}
    assert {name: server.common[name] for name in TRACING_OFF} == TRACING_OFF


def test_trace_settings_of_a_models_own_are_put_back(server):
    mine = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": ["7"], "trace_count": ["3"], "log_frequency": ["2"]}
    server.own["ensemble"] = dict(mine)
    timelines(server.url, {"A": request("ensemble")})
    assert server.own["ensemble"] == mine


def test_trace_settings_are_put_back_after_a_failure(server):
    spans, notes = timelines(server.url, {"A": request("broken")})
    assert (spans, notes) == ([], ["No timelines: broken: no answer"])
    assert server.own["broken"] == {}


def test_our_trace_files_are_removed_and_others_stay(server, tmp_path):
    others = tmp_path / "trace.json.older"
    others.write_text(ENSEMBLE)
    timelines(server.url, {"A": request("ensemble")})
    assert list(tmp_path.iterdir()) == [others]


def test_a_file_that_is_still_being_written_is_waited_for(server, tmp_path, monkeypatch):
    server.trace = lambda request, number: trace_file((1, "e", 0, request.id, whole(0, 1)))[:-1]
    pause = timeline.time.sleep

    def finish(seconds):
        pause(seconds)
        for path in tmp_path.iterdir():
            path.write_text(path.read_text().removesuffix("]") + "]")

    monkeypatch.setattr(timeline, "N_TRACED", 1)
    monkeypatch.setattr(timeline.time, "sleep", finish)
    spans, notes = timelines(server.url, {"A": request("e")})
    assert ([span.name for span in spans], notes) == (["e", "e: queue"], [])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"trace_file": [""]}, "the server has no trace file. Start it with --trace-config=triton,file=FILE."),
        ({"trace_mode": ["opentelemetry"], "trace_file": []}, "the server's traces go to opentelemetry."),
        (
            {"trace_file": ["/not/on/this/machine/t.json"]},
            "the server writes its traces to /not/on/this/machine/t.json, which is not on this machine.",
        ),
    ],
)
def test_a_server_whose_traces_cannot_be_read_has_no_timelines_and_is_asked_nothing(server, settings, reason):
    server.common |= settings
    assert timelines(server.url, {"A": request("ensemble")}) == ([], [f"No timelines: {reason}"])
    assert server.seen == []


@pytest.mark.parametrize("name", ["t.json", "/tmp/t.json"])
@pytest.mark.parametrize("seen", ["not at all", "ended"])
def test_a_server_that_is_not_seen_here_keeps_its_settings_whatever_its_path(server, monkeypatch, name, seen):
    ended = psutil.Process()
    monkeypatch.setattr(ended, "cwd", lambda: (_ for _ in ()).throw(psutil.NoSuchProcess(1)))
    monkeypatch.setattr(timeline, "find_server", lambda url: ended if seen == "ended" else None)
    server.common["trace_file"] = [name]
    note = f"No timelines: the server writes its traces to {name}, which is not on this machine."
    assert timelines(server.url, {"A": request("ensemble")}) == ([], [note])
    assert (server.seen, server.own) == ([], {})


def test_a_relative_trace_file_lies_where_the_server_runs(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.common["trace_file"] = ["t.json"]
    spans, notes = timelines(server.url, {"A": request("ensemble")})
    assert (spans[0].name, notes) == ("ensemble", [])


def test_traces_that_never_come_up_are_noted(server, tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "WRITTEN_S", 0.1)
    server.trace = None
    spans, [note] = timelines(server.url, {"A": request("ensemble"), "B": request("bls")})
    assert spans == []
    assert (
        note == f"No timelines: the server writes its traces to {tmp_path}/trace.json, and none of them came up there."
    )


def test_a_server_that_is_gone_is_noted(server):
    server.stop()
    spans, [note] = timelines(server.url, {"A": request("ensemble")})
    assert spans == []
    assert note.startswith("No timelines: ")
    assert "\n" not in note
