"""The watchdog's decisions, on a made-up server under a clock of the test's own."""

import dataclasses
import itertools
import math

import pytest

from dualpath.serving.watch.canary import Canary
from dualpath.serving.watch.plant import MendFailed
from dualpath.serving.watch.processes import Stub
from dualpath.serving.watch.watchdog import SERVER, Watchdog

SCORERS = ("ensemble_all", "orchestrator")


class MadeUp:
    """A server of three models, whose faults the test makes."""

    def __init__(self):
        self.now = 1000.0
        self.reason = None
        self.held = False
        self.processes = [
            Stub(1, 1, "bert-large", False),
            Stub(2, 1, "bert-large", False),
            Stub(3, 1, "orchestrator", False),
        ]
        self.computing = [Stub(9, 1, "bert-large", False)]
        self.states = {}
        self.counts = {}
        self.cpu = {}
        self.done = []
        self.failing = set()
        self.loaded = {"bert-large": 2, "orchestrator": 1}

    def clock(self):
        return self.now

    def death(self):
        return self.reason

    def stubs(self):
        return list(self.processes)

    def helpers(self):
        return list(self.computing)

    def end(self, helper):
        self.done.append(f"end {helper.pid}")
        self.computing.remove(helper)

    def server_stopped(self):
        return self.held

    def expected(self, model):
        return self.loaded.get(model, 0)

    def canaries(self):
        return self.states

    def ask(self):
        for model in ("bert-large", *SCORERS):
            state = self.states.setdefault(model, Canary(self.now, pending=False))
            if not state.pending:
                state.sent = state.answered = state.scored = self.now

    def answered(self, model):
        return self.counts.get(model, 0)

    def cpu_s(self, model):
        return self.cpu.get(model, 0.0)

    def replace(self, model):
        self.done.append(model)
        if model in self.failing:
            raise MendFailed("its requests do not end")
        self._renew(model)

    def restart(self):
        self.done.append(SERVER)
        if SERVER in self.failing:
            raise MendFailed("a model did not load")
        self.reason, self.held = None, False
        self.states.clear()
        self._renew("bert-large", "orchestrator")

    def _renew(self, *models):
        others = [stub for stub in self.processes if stub.model not in models]
        first = 100 + int(self.now)
        new = [Stub(first + i, 2, model, False) for model in models for i in range(self.loaded[model])]
        self.processes = others + new


@pytest.fixture
def plant():
    return MadeUp()


@pytest.fixture
def said():
    return []


@pytest.fixture
def watchdog(plant, said):
    return Watchdog(plant, SCORERS, plant.clock, said.append)


def run(watchdog, plant, seconds, each=lambda: None):
    """Let time pass, a look every quarter of a second."""
    for _ in range(int(seconds * 4)):
        each()
        watchdog.step()
        plant.now += 0.25


def test_nothing_is_done_to_a_server_that_answers(watchdog, plant, said):
    run(watchdog, plant, 60)
    assert (plant.done, said, watchdog.unready()) == ([], [], None)


def test_a_model_one_of_whose_processes_ended_is_replaced_once(watchdog, plant, said):
    run(watchdog, plant, 2)
    del plant.processes[0]
    run(watchdog, plant, 10)
    assert plant.done == ["bert-large"]
    assert said[0] == "bert-large: 1 of 2 processes ended; replacing it"
    assert said[1].startswith("bert-large: replaced within ")
    [(name, incident)] = watchdog.incidents.items()
    assert (name, incident.restarts, incident.what) == ("bert-large", 1, "1 of 2 processes ended")


def test_a_process_that_ends_while_another_model_is_replaced_is_found(watchdog, plant):
    run(watchdog, plant, 2)
    replace = plant.replace

    def lose_another(model):
        if model == "bert-large":
            del plant.processes[-1]
        replace(model)

    plant.replace = lose_another
    del plant.processes[0]
    run(watchdog, plant, 2)
    assert plant.done == ["bert-large", "orchestrator"]


def test_a_process_that_ends_because_its_model_is_unloaded_is_no_fault(watchdog, plant):
    run(watchdog, plant, 2)
    plant.loaded["bert-large"] = 0
    plant.processes = plant.processes[2:]
    run(watchdog, plant, 10)
    assert plant.done == []


def test_a_model_that_has_just_got_more_processes_as_one_ends_is_left_alone(watchdog, plant):
    run(watchdog, plant, 2)
    expected = plant.expected

    def loaded_meanwhile(model):
        """Between the look and the question a load ends: it brought two processes, so three are expected."""
        plant.processes += [Stub(5, 1, "bert-large", False), Stub(6, 1, "bert-large", False)]
        plant.loaded["bert-large"], plant.expected = 3, expected
        return 3

    del plant.processes[0]
    plant.expected = loaded_meanwhile
    run(watchdog, plant, 10)
    assert plant.done == []


def test_a_process_whose_number_is_used_again_is_seen_to_have_ended(watchdog, plant):
    run(watchdog, plant, 2)
    plant.processes[0] = Stub(1, 7, "orchestrator", False)
    run(watchdog, plant, 1)
    assert plant.done == ["bert-large"]


def test_a_model_that_cannot_be_replaced_costs_a_restart(watchdog, plant, said):
    run(watchdog, plant, 2)
    plant.failing.add("orchestrator")
    del plant.processes[2]
    run(watchdog, plant, 3)
    assert plant.done == ["orchestrator", SERVER]
    assert said[1] == "server: orchestrator: its requests do not end; restarting it"


def test_a_process_stopped_for_half_a_second_is_left_alone_and_for_longer_replaced(watchdog, plant):
    run(watchdog, plant, 2)
    running, plant.processes[0] = plant.processes[0], dataclasses.replace(plant.processes[0], stopped=True)
    run(watchdog, plant, 0.5)
    # The same process, which is not told from itself by its state.
    plant.processes[0] = running
    run(watchdog, plant, 5)
    assert plant.done == []
    plant.processes[0] = dataclasses.replace(running, stopped=True)
    run(watchdog, plant, 1.5)
    assert plant.done == ["bert-large"]


def test_a_process_that_computes_and_is_stopped_is_ended_and_its_model_stays(watchdog, plant, said):
    run(watchdog, plant, 2)
    plant.computing = [Stub(9, 1, "bert-large", True)]
    run(watchdog, plant, 5)
    assert plant.done == ["end 9"]
    assert said == [
        "bert-large: process 9, which computes, is stopped by a signal; ending it, the next request starts another"
    ]
    assert {name: it.restarts for name, it in watchdog.incidents.items()} == {"bert-large": 1}


def test_a_server_that_is_stopped_or_died_is_started_anew(watchdog, plant, said):
    plant.held = True
    run(watchdog, plant, 2)
    assert plant.done == [SERVER]
    plant.now += 1000
    plant.reason = "Triton was ended by SIGSEGV"
    run(watchdog, plant, 2)
    assert plant.done == [SERVER, SERVER]
    assert said[-2] == "server: Triton was ended by SIGSEGV; restarting it"


def test_a_server_that_dies_again_and_again_is_started_after_longer_and_longer_delays(watchdog, plant):
    starts = []

    def die():
        if len(plant.done) > len(starts):
            starts.append(plant.now)
        plant.reason = "Triton ended by itself"

    run(watchdog, plant, 250, die)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert len(starts) < 12
    assert gaps == sorted(gaps)
    assert gaps[-1] > 30


def test_a_server_that_has_scored_since_its_restart_is_started_at_once_however_often(watchdog, plant):
    for n in range(1, 8):
        run(watchdog, plant, 2)
        plant.reason = "Triton ended by itself"
        run(watchdog, plant, 0.5)
        assert plant.done == [SERVER] * n


def test_a_start_that_fails_is_tried_again(watchdog, plant, said):
    plant.reason = "Triton ended by itself"
    plant.failing.add(SERVER)
    run(watchdog, plant, 5)
    assert "server: not started: a model did not load" in said
    plant.failing.clear()
    run(watchdog, plant, 60)
    assert plant.reason is None


def test_a_restart_mends_all_models_that_have_died(watchdog, plant):
    run(watchdog, plant, 2)
    plant.processes.clear()
    plant.failing |= {"bert-large", "orchestrator"}
    run(watchdog, plant, 2)
    assert len(plant.done) == 2
    assert plant.done[1] == SERVER


def test_a_model_that_dies_again_and_again_costs_a_restart(watchdog, plant):
    for _ in range(4):
        run(watchdog, plant, 2)
        plant.processes = [stub for stub in plant.processes if stub.model != "bert-large"]
    run(watchdog, plant, 2)
    assert plant.done == ["bert-large"] * 3 + [SERVER]


def waiting(plant, model):
    """Leave a model's canary without an answer."""
    plant.states[model] = Canary(plant.now)


def test_a_model_that_answers_nobody_is_replaced(watchdog, plant, said):
    run(watchdog, plant, 4)
    waiting(plant, "bert-large")
    run(watchdog, plant, 9)
    assert plant.done == []
    run(watchdog, plant, 3)
    assert plant.done == ["end 9", "bert-large"]  # new instances would ask the process that hangs
    assert said[0] == "bert-large: no answer to anybody for 5 s; replacing it"


def test_an_overloaded_model_is_left_alone(watchdog, plant):
    run(watchdog, plant, 4)
    waiting(plant, "bert-large")

    def answer_others():
        plant.counts["bert-large"] = plant.counts.get("bert-large", 0) + 1

    run(watchdog, plant, 60, answer_others)
    assert plant.done == []


def test_a_model_that_computes_is_left_alone_for_longer_and_so_are_those_that_may_wait_for_it(watchdog, plant):
    run(watchdog, plant, 4)
    waiting(plant, "bert-large")
    waiting(plant, "orchestrator")

    def compute():
        plant.cpu["bert-large"] = plant.cpu.get("bert-large", 0.0) + 0.1

    run(watchdog, plant, 45, compute)
    assert plant.done == []
    run(watchdog, plant, 8, compute)
    assert "bert-large" in plant.done


def test_a_model_that_does_not_compute_is_replaced_though_others_do(watchdog, plant):
    run(watchdog, plant, 4)
    waiting(plant, "bert-large")

    def compute():
        plant.cpu["orchestrator"] = plant.cpu.get("orchestrator", 0.0) + 0.1

    run(watchdog, plant, 12, compute)
    assert plant.done == ["end 9", "bert-large"]


def test_a_server_that_is_started_anew_is_not_ready(watchdog, plant, monkeypatch):
    seen, restart = [], plant.restart
    monkeypatch.setattr(plant, "restart", lambda: (seen.append(watchdog.unready()), restart()))
    run(watchdog, plant, 1)
    assert watchdog.unready() is None
    plant.reason = "Triton was ended by SIGKILL"
    plant.failing.add(SERVER)
    watchdog.step()
    assert watchdog.unready() == seen[0] == "the server restarts: Triton was ended by SIGKILL"
    plant.reason = None  # it runs, but its client could not connect
    plant.failing.clear()
    run(watchdog, plant, 4)
    assert plant.done == [SERVER, SERVER]
    assert watchdog.unready() is None


def test_ready_means_that_both_scorers_have_just_made_a_score(watchdog, plant):
    assert watchdog.unready() == "ensemble_all: no score for 9 s"
    run(watchdog, plant, 1)
    assert watchdog.unready() is None
    state = plant.states["orchestrator"]
    state.pending, state.error = True, "bert-large: not loaded"
    plant.now += 10
    plant.states["ensemble_all"].scored = plant.now
    assert watchdog.unready() == "orchestrator: no score for 9 s: bert-large: not loaded"
    state.scored = -math.inf
    assert watchdog.unready().startswith("orchestrator")
