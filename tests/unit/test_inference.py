"""Which engine runs a TorchScript model, and what it answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import FLOATS, WHOLE, Sum

from dualpath import inference
from dualpath.inference import Input, conversion, openvino_model, served
from dualpath.readability.contract import TOLERANCES
from dualpath.readability.reference import BERT_INPUTS
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.training.bert.export import Int8Linear
from prove_engines import largest_difference

pytestmark = pytest.mark.usefixtures("cache")


class Large(torch.nn.Module):
    """Needs 64 bits, of which OpenVINO's CPU plugin keeps 32: it answers something else."""

    def forward(self, a: torch.Tensor):
        return ((a + 1) * 3_000_000_000 // 1_000_000_000).to(torch.float32).sum(1, keepdim=True)


class Unknown(torch.nn.Module):
    """An operation that OpenVINO does not know."""

    def forward(self, a: torch.Tensor):
        return torch.linalg.lstsq(a.unsqueeze(-1), a[:, :, None]).solution[:, 0]


class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, dtype=torch.float16)

    def forward(self, a: torch.Tensor):
        return self.layer(a.to(torch.float16)).to(torch.float32)


class Narrow(torch.nn.Module):
    """Weights of int8, in the way of an encoder's layers."""

    def __init__(self):
        super().__init__()
        self.layer = Int8Linear(torch.nn.Linear(256, 8))

    def forward(self, a: torch.Tensor):
        return self.layer(a)


class Two(torch.nn.Module):
    def forward(self, a: torch.Tensor):
        return a, a * 2.0


class Doubled(torch.nn.Module):
    def forward(self, a: torch.Tensor):
        return a * 2.0


def test_openvino_gives_torchs_answers_and_the_second_load_converts_nothing(saved, cache, monkeypatch):
    path = saved(Sum())
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = (rows * 2 + 1).sum(1, keepdims=True)
    model = inference.load(path, [FLOATS], "openvino")
    assert model.engine.startswith("OpenVINO")
    assert model.engine.endswith("in float32")
    assert model.reason is None
    np.testing.assert_array_equal(model.run([rows])[0], expected)
    monkeypatch.setattr(conversion.subprocess, "run", lambda *_, **__: pytest.fail("converted again"))
    np.testing.assert_array_equal(inference.load(path, [FLOATS], "openvino").run([rows])[0], expected)


@pytest.mark.parametrize("removed", [conversion.FINDING, conversion.MODEL, conversion.WEIGHTS])
def test_a_half_removed_conversion_is_made_anew_beside_the_files_that_a_server_still_reads(saved, cache, removed):
    path = saved(Sum())
    inference.load(path, [FLOATS], "openvino")
    [finding] = cache.rglob(conversion.FINDING)
    weights = finding.parent / conversion.WEIGHTS
    with weights.open("rb") as file:
        before = file.read()
        (finding.parent / removed).unlink()
        openvino_model._read.cache_clear()
        assert inference.load(path, [FLOATS], "openvino").engine.startswith("OpenVINO")
        assert weights.stat().st_ino != os.fstat(file.fileno()).st_ino
        assert file.seek(0) == 0
        assert file.read() == before
    assert finding.is_file()


def test_a_conversion_that_another_process_removes_before_it_is_read_is_made_anew(saved, cache, monkeypatch):
    path = saved(Sum())
    removed = []

    def convert_and_remove(*arguments):
        converted = convert(*arguments)
        if not removed:
            removed.append(converted.model.parent)
            shutil.rmtree(converted.model.parent)
        return converted

    convert = conversion.convert
    monkeypatch.setattr(conversion, "convert", convert_and_remove)
    model = inference.load(path, [FLOATS], "openvino")
    assert model.engine.startswith("OpenVINO")
    assert removed[0].is_dir()


@pytest.mark.parametrize(
    ("module", "tensor", "options", "reason"),
    [
        (Unknown(), FLOATS, {}, "OpenVINO cannot"),
        (Large(), WHOLE, {}, "OpenVINO's answers differ from torch's by"),
        (Half(), FLOATS, {}, "it computes in float16"),
        (Doubled(), Input("float64", (-1, 4)), {}, "input 0 is float64"),
        (Two(), FLOATS, {"n_outputs": 2}, "it has 2 outputs"),
    ],
)
def test_torch_runs_what_openvino_cannot_run_or_runs_wrongly(saved, module, tensor, options, reason):
    path = saved(module)
    model = inference.load(path, [tensor], "openvino", **options)
    assert model.engine.startswith("torch")
    assert model.reason.startswith(reason), model.reason
    rows = np.arange(1, 9).reshape(2, 4).astype(tensor.dtype)
    expected = torch.jit.load(str(path))(torch.from_numpy(rows))
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, right in zip(model.run([rows]), expected, strict=True):
        np.testing.assert_array_equal(got, right.detach().numpy())


def test_weights_of_int8_stay_int8_and_move_answers_within_the_tolerance(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(Narrow().eval(), torch.zeros(1, 256)), path)
    inputs = [Input("float32", (-1, 256))]
    model = inference.load(path, inputs, "openvino")
    assert (model.engine.split()[-1], model.reason) == ("int8", None)
    [weights] = (tmp_path / "cache").rglob("*.bin")
    assert weights.stat().st_size < 256 * 8 * 1.1 + 100
    rows = np.random.default_rng(0).standard_normal((3, 256), np.float32)
    theirs = inference.load(path, inputs, "torch").run([rows])[0]
    difference = np.abs(model.run([rows])[0] - theirs).max()
    assert 0 < difference < TOLERANCES["int8"]


def test_torch_serves_if_openvino_is_not_installed_or_not_asked_for(saved, monkeypatch):
    path = saved(Sum())
    assert inference.load(path, [FLOATS], "torch").reason is None
    monkeypatch.setattr(openvino_model, "missing", lambda: "OpenVINO is not installed")
    model = inference.load(path, [FLOATS])
    assert (model.engine.split()[0], model.reason) == ("torch", "OpenVINO is not installed")


def test_a_crash_of_the_converter_is_a_reason_for_torch(saved, monkeypatch):
    crash = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(conversion.subprocess, "run", lambda *_, **__: crash)
    assert inference.load(saved(Sum()), [FLOATS]).reason == "its conversion failed: it ended with -11"


@pytest.mark.parametrize(("engine", "message"), [("tensorrt", "expected auto, openvino or torch, got 'tensorrt'")])
def test_an_unknown_engine_is_refused(saved, engine, message):
    with pytest.raises(inference.EngineError, match=message):
        inference.load(saved(Sum()), [FLOATS], engine)


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(inference.EngineError, match=r"model\.pt: expected a TorchScript model"):
        inference.load(tmp_path / "model.pt", [FLOATS])


NO_CONNECTION = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            print(event, arguments, file=file)
sys.addaudithook(hook)
"""


def test_openvino_is_told_nothing_to_send_home(saved, cache, tmp_path):
    path = saved(Sum())
    (tmp_path / "sitecustomize.py").write_text(NO_CONNECTION)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD")},
        "PYTHONPATH": str(tmp_path),
        "CONNECTIONS": str(tmp_path / "connections"),
        "HOME": str(tmp_path / "home"),
    }
    code = f"""
import sys, time
from pathlib import Path
from dualpath import inference
model = inference.load(Path({str(path)!r}), [inference.Input("float32", (-1, 4))], "openvino")
assert model.engine.startswith("OpenVINO"), model.reason
assert not sys.modules["openvino_telemetry"]
time.sleep(1)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
    assert not (tmp_path / "connections").exists(), (tmp_path / "connections").read_text()
    assert not (tmp_path / "home").exists()
    # The hook does see connections.
    attempt = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", attempt], env=environment, check=True)
    assert "socket.connect" in (tmp_path / "connections").read_text()


def test_a_model_that_is_loaded_in_two_ways_has_its_weights_in_memory_once(model_repository):
    path = newest(model_repository / "bert-large") / "model.pt"
    ways = [inference.load(path, BERT_INPUTS, "openvino", streams=streams) for streams in (2, 1)]
    assert all(way.engine.startswith("OpenVINO") for way in ways), ways[0].reason
    converted = conversion.convert(path, BERT_INPUTS).model.with_suffix(".bin")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(f"{converted}")]
    assert len(mapped) == 1


def test_the_engine_that_serves_is_read_from_the_metrics():
    line = 'stand_in_engine{engine="OpenVINO 2026.4.1 in float32",model="bert-large",version="2"} 1\n'
    assert served.parse(f"# TYPE stand_in_engine gauge\n{line}nv_x 3\n") == {
        "bert-large:2": "OpenVINO 2026.4.1 in float32"
    }


def test_openvino_scores_as_torch_does_within_the_tolerance(model_repository, monkeypatch):
    monkeypatch.delenv("DUALPATH_CACHE")
    version = newest(model_repository / "bert-large")
    tolerance = TOLERANCES[Facts.of(version).precision]
    engine, difference = largest_difference(version / "model.pt", 12)
    assert engine.startswith("OpenVINO")
    assert 0 < difference <= tolerance


TWO_AT_ONCE = """
import faulthandler, sys, threading
from pathlib import Path
import numpy as np
from dualpath import inference
faulthandler.dump_traceback_later(20, exit=True)
model = inference.load(Path(sys.argv[1]), [inference.Input("float32", (-1, 4))], "openvino", streams=2)
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=model.run, args=([np.ones((1, 4), np.float32)],)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_two_calls_of_a_process_may_come_at_once(saved):
    path = saved(Sum())
    for _ in range(4):  # without care every third process hangs
        subprocess.run([sys.executable, "-W", "ignore", "-c", TWO_AT_ONCE, str(path)], check=True)
