"""How instances of a model share the process that computes, and calls its threads."""

import signal
import threading
import time

import numpy as np
import psutil
import pytest
from small_models import FLOATS, Sum

from dualpath import inference
from dualpath.inference.client import Shared
from dualpath.inference.service import TwoWays


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One for all tests here, which share a model: it is converted once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALPATH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Noted:
    """A model that waits for a gate and notes how many rows each call had."""

    is_exact = True

    def __init__(self, is_open=True):
        self.gate = threading.Event()
        self.rows = []
        if is_open:
            self.gate.set()

    def run(self, inputs):
        self.rows.append(len(inputs[0]))
        assert self.gate.wait(10)
        return [inputs[0] * 10]


def test_a_lone_row_gets_all_threads_and_many_rows_all_streams():
    narrow, wide = Noted(), Noted()
    ways = TwoWays(narrow, wide, streams=2, chunk_rows=4)
    assert ways.run([np.array([[1]])])[0].tolist() == [[10]]
    assert (narrow.rows, wide.rows) == ([], [1])
    rows = np.arange(11)[:, None]
    assert ways.run([rows])[0].tolist() == (rows * 10).tolist()
    assert (sorted(narrow.rows), wide.rows) == ([3, 4, 4], [1])


def test_a_call_beside_another_takes_a_stream_at_once_and_a_third_waits_its_turn():
    narrow, wide = Noted(is_open=False), Noted(is_open=False)
    ways = TwoWays(narrow, wide, streams=2, chunk_rows=4)
    calls = [threading.Thread(target=ways.run, args=([np.array([[n]])],)) for n in range(3)]
    for call in calls:
        call.start()
        time.sleep(0.1)
    assert (len(wide.rows), len(narrow.rows)) == (1, 1)
    narrow.gate.set()
    calls[2].join(10)
    assert len(narrow.rows) == 2
    wide.gate.set()
    for call in calls:
        call.join(10)


def test_after_calls_beside_one_another_a_lone_call_gets_all_threads_from_the_second_on():
    narrow, wide = Noted(is_open=False), Noted(is_open=False)
    ways = TwoWays(narrow, wide, streams=2, chunk_rows=4)
    row = [np.array([[1]])]
    calls = [threading.Thread(target=ways.run, args=(row,)) for _ in range(2)]
    for call in calls:
        call.start()
        time.sleep(0.1)
    narrow.gate.set()
    wide.gate.set()
    for call in calls:
        call.join(10)
    assert (len(wide.rows), len(narrow.rows)) == (1, 1)
    ways.run(row)
    assert (len(wide.rows), len(narrow.rows)) == (1, 2)
    ways.run(row)
    assert (len(wide.rows), len(narrow.rows)) == (2, 2)


def test_torchs_chunks_do_not_depend_on_the_number_of_streams():
    narrow = Noted()
    narrow.is_exact = False
    TwoWays(narrow, None, streams=2, chunk_rows=4).run([np.arange(6)[:, None]])
    assert sorted(narrow.rows) == [2, 4]


@pytest.fixture
def name(request):
    return f"model-of-{request.node.name}"


@pytest.fixture
def shared(saved, name):
    instances = []

    def make(engine="openvino"):
        path = instances[0]._path if instances else saved(Sum())
        instances.append(Shared(path, [FLOATS], engine=engine, name=name))
        return instances[-1]

    yield make
    for instance in instances:
        instance.close()


@pytest.fixture
def service(name):
    """Gives the process of this test's model."""

    def find():
        [found] = [p for p in psutil.Process().children() if name in p.cmdline()]
        return found

    return find


def test_instances_share_a_process_which_a_kill_ends_and_the_next_call_starts_again(shared, service, name):
    one, other = shared(), shared()
    rows = np.ones((3, 4), np.float32)
    assert one.engine == other.engine
    for instance in (one, other):
        assert instance.run([rows])[0].tolist() == [[12.0]] * 3
    killed = service()
    assert killed.nice() == psutil.Process().nice() + 10
    killed.send_signal(signal.SIGINT)  # Ctrl-C is for the server
    assert one.run([rows])[0].tolist() == [[12.0]] * 3
    killed.kill()
    killed.wait(10)
    for instance in (one, other):
        with pytest.raises(
            RuntimeError,
            match=f"{name}: expected an answer, got the end of the process that computes. The next request",
        ):
            instance.run([rows])
        assert instance.run([rows])[0].tolist() == [[12.0]] * 3
    service()


def test_by_torch_each_instance_has_a_process(shared, name):
    rows = np.ones((3, 4), np.float32)
    for instance in (shared("torch"), shared("torch")):
        assert instance.engine.startswith("torch")
        assert instance.run([rows])[0].tolist() == [[12.0]] * 3
    assert len([p for p in psutil.Process().children() if name in p.cmdline()]) == 2


def test_the_process_ends_when_the_last_instance_has_left(shared, service):
    instance = shared()
    running = service()
    instance.close()
    running.wait(15)  # its exit code is known to whoever reaps it first
    assert not running.is_running()


def test_a_failing_call_is_an_error_and_the_next_one_works(shared, name):
    instance = shared()
    with pytest.raises(RuntimeError, match=f"{name}: "):
        instance.run([np.ones((1, 4), np.float32).astype(object)])
    assert instance.run([np.ones((1, 4), np.float32)])[0].tolist() == [[12.0]]


def test_a_model_that_cannot_be_loaded_is_refused_with_its_reason(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(inference.EngineError, match="expected a TorchScript model"):
        Shared(tmp_path / "model.pt", [FLOATS], engine="torch")
