"""What a server counts is attributed to the contender whose turn it was, and to no other."""

from collections import Counter
from contextlib import closing

import pytest
from counting_server import Metrics, counting_server, metrics_endpoint

from dualpath.compare.breakdown import Recorder, metrics, statistics
from dualpath.compare.result import Stage

PAIR = {"A": ("ensemble", ""), "B": ("bls", "")}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(metrics, "SETTLE_S", 0.0)
    monkeypatch.setattr(statistics, "_PAUSE_S", 0.0)


@pytest.fixture
def server():
    with counting_server() as (url, servicer):
        servicer.url = url
        servicer.ensembles = {"ensemble"}
        yield servicer


@pytest.fixture
def bls():
    it = Metrics()
    with metrics_endpoint(it) as url:
        it.url = url
        yield it


def turn_of(recorder, name, *work):
    with recorder.turn(name):
        for do in work:
            do()


def interrupt():
    raise KeyboardInterrupt


def test_alternating_contenders_do_not_mix_and_what_lies_between_turns_is_nobodys(server):
    recorder = Recorder(server.url, PAIR)
    for _ in range(3):
        server.count("bert", 100, compute_ms=5)
        with recorder.turn("A"):
            server.count("ensemble", 4, compute_ms=40)
            server.count("bert", 4, n_executions=2, queue_ms=8, compute_ms=36)
        server.count("ensemble", 100, compute_ms=5)
        with recorder.turn("B"):
            server.count("bls", 8, compute_ms=1)
            server.count("bert", 2, compute_ms=20)
    found = {(step.contender, step.model): step for step in recorder.steps()}
    assert list(found) == [("A", "ensemble"), ("A", "bert"), ("B", "bls"), ("B", "bert")]
    mine = found["A", "bert"]
    assert (mine.n_rows, mine.n_executions, mine.queue_ms, mine.compute_ms) == (12, 6, 2.0, 9.0)
    theirs = found["B", "bert"]
    assert (theirs.n_rows, theirs.n_executions, theirs.compute_ms) == (6, 3, 2.5)  # of 8 rows asked, each turn


def test_figures_that_say_less_than_they_seem_to_are_noted(server):
    recorder = Recorder(server.url, PAIR)
    for name, model in (("A", "ensemble"), ("B", "bls")):
        with recorder.turn(name):
            server.count(model, 1)
            server.count("bert", 1)
    assert {(step.contender, step.model): step.note for step in recorder.steps()} == {
        ("A", "ensemble"): "all of its steps together; what requests shared counts for each",
        ("A", "bert"): "",
        ("B", "bls"): "until `execute` returned; what it answered later is in its stages",
        ("B", "bert"): "",
    }


def test_a_contender_that_calls_no_other_model_has_one_step_without_a_note(server):
    recorder = Recorder(server.url, {"B": ("bls", "")})
    turn_of(recorder, "B", lambda: server.count("bls", 2, compute_ms=4))
    [step] = recorder.steps()
    assert (step.compute_ms, step.note) == (2.0, "")


def test_versions_of_a_model_are_told_apart(server):
    recorder = Recorder(server.url, {"m:1": ("m", "1"), "m:2": ("m", "2"), "newest": ("m", "")})
    turn_of(recorder, "m:1", lambda: server.count("m", 1, version="1", compute_ms=1))
    turn_of(recorder, "m:2", lambda: server.count("m", 1, version="2", compute_ms=2))
    turn_of(recorder, "newest", lambda: server.count("m", 1, version="2", compute_ms=3))
    turn_of(recorder, "m:2", lambda: server.count("m", 1, version="1", compute_ms=8))  # calls its own predecessor
    assert [(step.contender, step.model, step.compute_ms) for step in recorder.steps()] == [
        ("m:1", "m", 1.0),
        ("m:2", "m:2", 2.0),
        ("m:2", "m:1", 8.0),
        ("newest", "m", 3.0),
    ]


def test_a_contender_that_is_no_model_says_its_rows(server):
    recorder = Recorder(server.url, {})
    with recorder.turn("client") as asked:
        server.count("bert", 5, compute_ms=20)
        asked.n_rows = 10
    with pytest.raises(KeyboardInterrupt):
        turn_of(recorder, "client", lambda: server.count("bert", 99), interrupt)  # nobody says of how many
    [step] = recorder.steps()
    assert (step.n_rows, step.compute_ms) == (5, 2.0)


def test_a_turn_that_is_cut_short_counts_as_far_as_it_got(server):
    recorder = Recorder(server.url, PAIR)
    with pytest.raises(KeyboardInterrupt):
        turn_of(recorder, "B", lambda: server.count("bls", 2, compute_ms=4), interrupt)
    assert [step.n_rows for step in recorder.steps()] == [2]


def test_a_model_that_is_loaded_again_in_a_turn_is_counted_from_there(server):
    server.count("bls", 100)
    recorder = Recorder(server.url, PAIR)
    with recorder.turn("B"):
        server.forget("bls")
        server.count("bls", 3)
    assert [step.n_rows for step in recorder.steps()] == [3]


def test_what_is_counted_after_the_answer_belongs_to_the_turn(server, monkeypatch):
    recorder = Recorder(server.url, PAIR)
    late = [2, 1]

    def sleep(seconds):
        if late:
            server.count("bls", late.pop())

    with recorder.turn("B"):
        server.count("bls", 4)
        monkeypatch.setattr(statistics.time, "sleep", sleep)
    assert [step.n_rows for step in recorder.steps()] == [7]


def test_contenders_without_a_row_have_no_steps(server):
    recorder = Recorder(server.url, PAIR)
    turn_of(recorder, "A")
    assert recorder.steps() == []


def test_a_server_that_dies_in_a_turn_costs_the_turn_and_is_noted_once(server, bls):
    recorder = Recorder(server.url, PAIR, bls.url)
    turn_of(recorder, "A", lambda: server.count("ensemble", 4))
    for _ in range(2):
        turn_of(recorder, "A", lambda: server.count("ensemble", 4), server.stop)
    assert [step.n_rows for step in recorder.steps()] == [4]
    [note] = [note for note in recorder.notes if "could not always be read" in note]
    assert "\n" not in note


def test_a_closed_recorder_keeps_what_it_read(server):
    with closing(Recorder(server.url, PAIR)) as recorder:
        turn_of(recorder, "A", lambda: server.count("ensemble", 4))
    with pytest.raises(ValueError, match="closed"):
        statistics.read(recorder._client)
    assert [step.n_rows for step in recorder.steps()] == [4]


def test_a_server_that_was_never_there_raises_nothing():
    recorder = Recorder("127.0.0.1:1", PAIR, "http://127.0.0.1:1/metrics")
    turn_of(recorder, "A")
    assert (recorder.steps(), recorder.stages()) == ([], [])
    assert any("could not always be read" in note for note in recorder.notes)


def test_stages_and_routes_are_those_of_the_turns(server, bls):
    bls.stage("bls", "request", 1000, 1000.0)  # before the first turn: parity, another client
    recorder = Recorder(server.url, PAIR, bls.url)
    bls.stage("bls", "request", 1000, 1000.0)

    def work():
        server.count("bls", 3)
        bls.stage("bls", "request", 2, 0.03)
        bls.stage("bls", "bert", 1, 0.02)
        bls.rows("bls", "bert+cuml", 1)
        bls.rows("bls", "cuml", 2)

    turn_of(recorder, "B", work)
    turn_of(recorder, "A", lambda: server.count("ensemble", 1))
    turn_of(recorder, "B", work)
    assert recorder.stages() == [
        Stage("B", "request", 4, pytest.approx(15.0)),
        Stage("B", "bert", 2, pytest.approx(20.0)),
        Stage("B", "cuml", 4, None),
        Stage("B", "bert+cuml", 2, None),
    ]


def test_stages_of_a_model_that_a_contender_calls_bear_its_name(server, bls):
    recorder = Recorder(server.url, PAIR, bls.url)
    with recorder.turn("A"):
        server.count("ensemble", 1)
        server.count("inner", 1)
        bls.stage("inner", "request", 1, 0.001)
    bls.stage("unrelated", "request", 1, 0.001)
    assert recorder.stages() == [Stage("A", "inner: request", 1, 1.0)]


def test_stages_of_a_model_that_both_call_are_of_both_together(server, bls):
    recorder = Recorder(server.url, PAIR, bls.url)
    for name, model in (("A", "ensemble"), ("B", "bls")):
        with recorder.turn(name):
            server.count(model, 1)
            server.count("inner", 1)
            bls.stage("inner", "request", 1, 0.001)
    assert recorder.stages() == [Stage("A + B", "inner: request", 2, 1.0)]


def test_stages_of_two_versions_of_a_model_are_told_apart_by_turns(server, bls):
    recorder = Recorder(server.url, {"old": ("bls", "1"), "new": ("bls", "2")}, bls.url)
    for _ in range(2):
        for name, version, seconds in (("old", "1", 0.004), ("new", "2", 0.001)):
            with recorder.turn(name):
                server.count("bls", 1, version=version)
                bls.stage("bls", "request", 1, seconds)
    assert recorder.stages() == [
        Stage("old", "request", 2, pytest.approx(4.0)),
        Stage("new", "request", 2, pytest.approx(1.0)),
    ]


def test_without_an_address_of_the_metrics_there_are_no_stages_and_a_note(server):
    recorder = Recorder(server.url, PAIR)
    turn_of(recorder, "B", lambda: server.count("bls", 1))
    assert recorder.stages() == []
    assert any(note.startswith("No stages") for note in recorder.notes)


def test_the_client_is_always_among_the_processes_and_a_server_elsewhere_is_noted(server):
    recorder = Recorder(server.url, PAIR)
    turn_of(recorder, "A", lambda: sum(range(3_000_000)))
    [client] = recorder.processes()
    assert (client.name, client.cpu_s > 0, client.rss_mb > 10) == ("client", True, True)
    assert any(note.startswith("No figures of the server's processes") for note in recorder.notes)


def test_a_model_that_was_loaded_again_and_not_asked_since_has_done_nothing():
    model = ("cuml", "1")
    before = {model: Counter(rows=3, executions=1)}
    assert statistics.difference({model: Counter(rows=0, executions=0)}, before) == {}
    assert statistics.difference({model: Counter(rows=2, executions=1)}, before) == {
        model: {"rows": 2, "executions": 1}
    }
