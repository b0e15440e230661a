"""What the watchdog sees and says: processes, canaries, and the health endpoint."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from dualpath.repository import releases
from dualpath.serving import TritonServer, access, preflight
from dualpath.serving.watch import processes
from dualpath.serving.watch.canary import Canaries, Canary, inputs
from dualpath.serving.watch.endpoint import endpoint, status_of
from dualpath.serving.watch.plant import Plant
from dualpath.serving.watch.watchdog import Incident

SLEEPING = "import time; print('up', flush=True); time.sleep(300)"


@pytest.fixture
def stub():
    """A child of this process that looks like an instance of a model."""
    command = ["/x/triton_python_backend_stub", "-c", SLEEPING, "/models/bert-large/1/model.py", "bert-large_0_1"]
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(2) == b"up"
        yield process
        process.kill()


def own(pid):
    return [found for found in processes.stubs(os.getpid()) if found.pid == pid]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stub_is_seen_with_its_model_until_it_ends_though_nobody_has_reaped_it(stub):
    [found] = own(stub.pid)
    assert (found.model, found.stopped) == ("bert-large", False)
    os.kill(stub.pid, signal.SIGSTOP)
    until(lambda: own(stub.pid)[0].stopped)
    assert processes.is_stopped(stub.pid)
    os.kill(stub.pid, signal.SIGKILL)
    until(lambda: not own(stub.pid))


STARTS_STUBS = """
import os, threading, time

def start():
    if os.fork() == 0:
        os.execv("/bin/sh", ["/x/triton_python_backend_stub", "-c", "sleep 30; true", "m_0_1"])
    time.sleep(0.004)  # then this thread ends, and another becomes the child's parent

for _ in range(200):
    for work in (start, *[lambda: time.sleep(0.002)] * 3):
        threading.Thread(target=work).start()
    time.sleep(0.005)
time.sleep(60)
"""


def test_a_stub_is_seen_at_every_look_though_the_thread_that_started_it_ends():
    seen, missed = set(), 0
    with subprocess.Popen([sys.executable, "-c", STARTS_STUBS], start_new_session=True) as server:
        try:
            while len(seen) < 150 and server.poll() is None:
                now = {stub.pid for stub in processes.stubs(server.pid)}
                missed += not seen <= now
                seen |= now
        finally:
            os.killpg(server.pid, signal.SIGKILL)
    assert (len(seen) >= 150, missed) == (True, 0)


def test_a_process_that_computes_for_a_model_is_seen_in_the_servers_session():
    command = [sys.executable, "-c", SLEEPING, "dualpath.inference.service", "bert-large"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.read(2) == b"up"
        [found] = processes.helpers(process.pid)
        assert (found.pid, found.model, found.stopped) == (process.pid, "bert-large", False)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: processes.helpers(process.pid)[0].stopped)
        processes.end(found)
        until(lambda: not processes.helpers(process.pid))


def test_the_cpu_time_of_a_process_is_read():
    began, burnt = processes.cpu_s(os.getpid()), time.process_time()
    while time.process_time() - burnt < 0.1:
        pass
    assert 0.05 < processes.cpu_s(os.getpid()) - began < 1
    assert processes.cpu_s(2**22 + 1) == 0


def test_only_the_very_process_is_ended(stub):
    [found] = own(stub.pid)
    processes.end(processes.Stub(found.pid, found.started + 1, found.model, False))
    assert own(stub.pid)
    processes.end(found)
    until(lambda: not own(stub.pid))


def test_regions_are_swept_that_nobody_maps_or_the_server_alone_for_a_while():
    prefix, now = f"dualpath-test-{os.getpid()}-", [0.0]
    unused, dead, shared, others = (
        Path("/dev/shm") / name for name in (f"{prefix}a", f"{prefix}b", f"{prefix}c", f"other-{prefix}")
    )
    sweeper = processes.Sweeper(prefix, lambda: now[0])
    code = f"import numpy, time; it = numpy.memmap({str(shared)!r}); print('up', flush=True); time.sleep(300)"
    try:
        for region in (unused, dead, shared, others):
            region.write_bytes(b"x" * 4096)
        ours = [np.memmap(dead), np.memmap(shared)]  # this process is the server
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as instance:
            assert instance.stdout.read(2) == b"up"
            assert sweeper.look(os.getpid()) == 1
            now[0] += processes.ALONE_S - 1
            assert sweeper.look(os.getpid()) == 0
            now[0] += 1
            assert sweeper.look(os.getpid()) == 1
            assert [region.exists() for region in (unused, dead, shared, others)] == [False, False, True, True]
            assert [bytes(region[:2]) for region in ours] == [
                b"\0\0",
                b"xx",
            ]  # its memory is given back, not its mapping
            instance.kill()
        del ours
    finally:
        for region in (unused, dead, shared, others):
            region.unlink(missing_ok=True)


CONFIG = """
max_batch_size: 8
input [
  { name: "excerpt" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "ids" data_type: TYPE_INT64 dims: [ 3 ] },
  { name: "weight" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "more" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
]
"""


def test_a_canary_is_one_row_of_the_inputs_that_a_config_demands():
    made = inputs(text_format.Parse(CONFIG, ModelConfig()))
    assert [(item.name(), item.datatype(), item.shape()) for item in made] == [
        ("excerpt", "BYTES", [1, 1]),
        ("ids", "INT64", [1, 3]),
        ("weight", "FP32", [1, 1]),
    ]
    [without_batch] = inputs(text_format.Parse('input [{name: "x" data_type: TYPE_BOOL dims: [2]}]', ModelConfig()))
    assert (without_batch.datatype(), without_batch.shape()) == ("BOOL", [2])


class Answer:
    """A model's answer with one output."""

    def __init__(self, *values):
        self._array = np.array(values, np.float32)

    def get_response(self):
        return type("Response", (), {"outputs": [type("Output", (), {"name": "SCORE"})]})

    def as_numpy(self, name):
        return self._array


class Client:
    """A client that keeps the canaries until the test answers them."""

    def __init__(self):
        self.callbacks = []

    def get_model_config(self, model, client_timeout):
        return type("Answer", (), {"config": text_format.Parse(CONFIG, ModelConfig())})

    def async_infer(self, model, inputs, callback, request_id, client_timeout):
        self.callbacks.append(callback)


@pytest.mark.parametrize(
    ("result", "error", "answered", "scored"),
    [
        (Answer(0.5), None, True, True),
        (Answer(np.nan), None, True, False),
        (None, InferenceServerException("overloaded", "StatusCode.UNAVAILABLE"), True, False),
        (None, InferenceServerException("late", "StatusCode.DEADLINE_EXCEEDED"), False, False),
    ],
)
def test_a_canary_tells_an_answer_from_a_score_and_from_silence(result, error, answered, scored):
    client, now = Client(), [10.0]
    canaries = Canaries(client, lambda: now[0])
    canaries.send("orchestrator")
    canaries.send("orchestrator")  # the first is still on its way
    [callback] = client.callbacks
    assert canaries.states["orchestrator"].pending
    now[0] = 11.0
    callback(result, error)
    state = canaries.states["orchestrator"]
    assert (state.pending, state.answered == 11.0, state.scored == 11.0) == (False, answered, scored)
    assert bool(state.error) is not scored


class Dog:
    """A watchdog that has mended BERT twice."""

    reason = "orchestrator: no score for 9 s"
    incidents = {"bert-large": Incident("1 of 2 processes ended", time.monotonic(), 2)}  # noqa: RUF012

    def unready(self):
        return self.reason

    def names(self):
        return ["server", "bert-large"]


def answer(url):
    try:
        with urllib.request.urlopen(url) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_server_whose_start_failed_is_dead(tmp_path):
    plant = object.__new__(Plant)
    plant._triton = TritonServer(tmp_path)
    assert plant.death() == "its last start failed"


def test_a_replacement_that_waits_for_another_command_says_so(tmp_path, monkeypatch):
    said, replaced = [], []
    plant = object.__new__(Plant)
    plant._triton, plant._report = TritonServer(tmp_path), said.append
    plant._triton.shm_prefix = "dualpath-none-"
    monkeypatch.setattr(plant, "_replace", replaced.append)
    waiting = threading.Thread(target=plant.replace, args=("cuml",))
    with releases.locked(tmp_path):
        waiting.start()
        until(lambda: said)
        assert replaced == []
    waiting.join()
    assert said == [f"{tmp_path}: waiting for another command that changes or loads its versions"]
    assert replaced == ["cuml"]


def test_the_endpoint_tells_live_from_ready_and_counts_for_prometheus():
    dog = Dog()
    [port] = preflight.check_ports("127.0.0.1", {"--health-port": 0}).values()
    at = f"http://127.0.0.1:{port}"
    with endpoint(dog, "127.0.0.1", port):
        assert answer(f"{at}/live") == (200, "live\n")
        assert answer(f"{at}/ready") == (503, "orchestrator: no score for 9 s\n")
        families = {it.name: it for it in text_string_to_metric_families(answer(f"{at}/metrics")[1])}
        assert families["dualpath_ready"].samples[0].value == 0
        restarts = {it.labels["model"]: it.value for it in families["dualpath_restarts"].samples}
        assert restarts == {"server": 0, "bert-large": 2}
        dog.reason = None
        assert answer(f"{at}/ready") == (200, "ready\n")
        assert answer(f"{at}/elsewhere")[0] == 404
    with pytest.raises(OSError, match="refused"):
        answer(f"{at}/live")


def test_what_was_mended_is_asked_for_without_a_proxy(monkeypatch):
    [port] = preflight.check_ports("127.0.0.1", {"--health-port": 0}).values()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(access, "health_for", lambda url: f"http://127.0.0.1:{port}")
    with endpoint(Dog(), "127.0.0.1", port):
        status = status_of("localhost:8001")
    assert (status.reason, status.restarts) == ("orchestrator: no score for 9 s", {"bert-large": 2})
    assert status.faults["bert-large"].endswith(": 1 of 2 processes ended")
    assert status_of("localhost:8001") is None  # gone


def test_a_canary_that_was_never_answered_has_no_score():
    assert Canary(1.0).scored == -np.inf
