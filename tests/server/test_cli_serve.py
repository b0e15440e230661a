"""`dualpath serve`, `demo` and `build` as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dualpath.serving import StartFailed, TritonServer, installation
from dualpath.serving.installation import PYTHON, STUB

DUALPATH = str(Path(sys.executable).parent / "dualpath")
PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")


def dualpath(*arguments, **options):
    return subprocess.run([DUALPATH, *arguments], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_is_on_the_loopback_and_ends_well_on_a_signal(model_repository, number):
    command = [DUALPATH, "serve", *PORTS, "--model-repository", str(model_repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(4)]
            address = lines[1].split()[1]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{address}/v2/health/ready") as answer:
                assert answer.status == 200
        finally:
            process.send_signal(number)
        assert process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/v2/health/ready")


def test_serve_says_in_one_line_which_model_failed_and_why(model_repository, tmp_path):
    shutil.copytree(model_repository, tmp_path / "model_repository", copy_function=os.symlink)
    config = tmp_path / "model_repository" / "cuml" / "config.pbtxt"
    text = config.read_text().replace("treelite_checkpoint", "xgboost_json")
    config.unlink()
    config.write_text(text)
    ended = dualpath("serve", *PORTS, "--model-repository", str(tmp_path / "model_repository"))
    assert ended.returncode == 1
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("dualpath:")]
    assert "cuml" in line
    assert "xgboost_json" in line
    assert "Traceback" not in ended.stderr


def test_a_copy_of_the_wheel_s_server_is_served_from_and_a_library_it_lacks_is_named_at_once(
    model_repository, tmp_path
):
    copy = shutil.copytree(installation.find("embedded").binary.parent.parent, tmp_path / "triton")
    shutil.copytree(model_repository / "postprocess", tmp_path / "models" / "postprocess")
    options = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "log_path": tmp_path / "triton.log"}
    server = TritonServer(tmp_path / "models", server=str(copy / "bin" / "tritonserver"), **options)
    with server:
        assert Path(f"/proc/{server.pid}/exe").samefile(copy / "bin" / "tritonserver")
    stub = copy / "python_backend_stubs" / PYTHON / STUB
    stub.write_bytes(
        stub.read_bytes().replace(f"libpython{PYTHON}.so.1.0".encode(), f"libpython{PYTHON}.so.1.X".encode())
    )
    with pytest.raises(
        StartFailed, match=r"libpython.*\.so\.1\.X: cannot open .* Put the library's folder on LD_LIBRARY"
    ):
        server.start()


def test_demo_shows_that_both_models_agree(model_repository):
    ended = dualpath("demo", "--json", "--model-repository", str(model_repository))
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    assert len(rows) == 8
    assert all(row["ensemble_all"] == row["orchestrator"] for row in rows)


def test_build_leaves_alone_what_is_up_to_date(model_repository):
    before = (model_repository / "bert-large" / "1" / "model.pt").stat().st_mtime_ns
    ended = dualpath("build", "--json", "--model-repository", str(model_repository))
    assert ended.returncode == 0
    assert all(artifact["up_to_date"] for artifact in json.loads(ended.stdout))
    assert (model_repository / "bert-large" / "1" / "model.pt").stat().st_mtime_ns == before


def test_local_scoring_names_a_damaged_artifact(model_repository, tmp_path):
    shutil.copytree(model_repository, tmp_path / "damaged", copy_function=os.symlink)
    model = tmp_path / "damaged" / "bert-large" / "1" / "model.pt"
    model.unlink()
    model.write_bytes(b"not a model")
    ended = dualpath("score", "--local", "some words", "--model-repository", str(tmp_path / "damaged"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("dualpath: bert-large: expected model.pt of version 1 as recorded when made")
    assert "Run `dualpath build --force`" in ended.stderr
