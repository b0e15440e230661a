"""Starting a server, as far as it goes without one: finding it, the checks before, and giving up."""

import os
import socket
import sys
from pathlib import Path

import pytest

from dualpath import cli
from dualpath.errors import UserError
from dualpath.repository import folders
from dualpath.repository.facts import Facts
from dualpath.serving import StartFailed, TritonServer, gpus, installation, preflight

CONFIG = 'backend: "python"\ninstance_group [{kind: KIND_CPU}] # KIND_GPU is in configs\n'


@pytest.fixture
def a_repository(tmp_path) -> Path:
    folder = tmp_path / "model_repository"
    for name in ("cuml", "postprocess", "ensemble_all"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG)
    (folder / "ensemble_all" / "config.pbtxt").write_text('platform: "ensemble"\n')
    (folder / "cuml" / "config.pbtxt").write_text(CONFIG.replace("python", "fil"))
    (folder / "cuml" / "1" / "checkpoint.tl").touch()
    (folder / "cuml" / "1" / "word_lists.json").touch()
    (folder / "postprocess" / "1" / "model.py").touch()
    return folder


def test_repository_refuses_a_missing_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"got no such folder\. Pass --model-repository, or write one by"):
        folders.models(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"expected folders with a config\.pbtxt or a version, got none"):
        folders.models(tmp_path)


def test_artifacts_may_lie_in_any_version(a_repository):
    models = folders.models(a_repository)
    preflight.check_artifacts(models)
    (a_repository / "cuml" / "10").mkdir()
    preflight.check_artifacts(models)
    (a_repository / "cuml" / "1" / "checkpoint.tl").rename(a_repository / "cuml" / "10" / "checkpoint.tl")
    preflight.check_artifacts(models)
    (a_repository / "cuml" / "10" / "checkpoint.tl").rename(a_repository / "cuml" / "checkpoint.tl")
    with pytest.raises(UserError, match=r"cuml: expected .*1/checkpoint\.tl, got none\. Run `dualpath build`"):
        preflight.check_artifacts(models)


def test_a_damaged_artifact_is_named_with_what_to_do(a_repository):
    version = a_repository / "cuml" / "1"
    (version / "checkpoint.tl").write_bytes(b"a forest")
    Facts().write(version)
    models = folders.models(a_repository)
    preflight.check_artifacts(models)
    (version / "checkpoint.tl").write_bytes(b"a forert")
    with pytest.raises(
        UserError, match=r"cuml: expected checkpoint\.tl of version 1 .*damaged.*dualpath build --force"
    ):
        preflight.check_artifacts(models)


def test_a_certificate_and_key_that_triton_could_not_use_are_refused(tmp_path):
    preflight.check_tls(None)
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(
        UserError, match=r"--grpc-tls-cert .*: expected a certificate and its private key .*No such file"
    ):
        preflight.check_tls((tmp_path / "nowhere.pem", tmp_path / "key.pem"))


def test_the_file_beside_an_artifact_is_needed_too(a_repository):
    (a_repository / "cuml" / "1" / "word_lists.json").unlink()
    with pytest.raises(UserError, match=r"cuml: expected .*word_lists\.json, got none\. Run `dualpath build`"):
        preflight.check_artifacts(folders.models(a_repository))


def test_python_model_without_code_is_refused_because_triton_would_hang(a_repository):
    (a_repository / "postprocess" / "2").mkdir()
    with pytest.raises(UserError, match=r"postprocess: expected its code at .*2/model\.py, got no such file"):
        preflight.check_artifacts(folders.models(a_repository))


def test_config_name_must_be_known_to_every_model_with_instances(a_repository):
    models = folders.models(a_repository)
    preflight.check_config_name(models, None)
    configs = a_repository / "cuml" / "configs"
    configs.mkdir()
    (configs / "gpu.pbtxt").write_text(CONFIG)
    with pytest.raises(UserError, match=r"got none in postprocess\. The repository has: gpu\.$"):
        preflight.check_config_name(models, "gpu")
    (a_repository / "postprocess" / "configs").mkdir()
    (a_repository / "postprocess" / "configs" / "gpu.pbtxt").write_text(CONFIG)
    preflight.check_config_name(models, "gpu")


@pytest.fixture
def stand_ins(tmp_path):
    """A server that has neither backend in C++."""
    return installation.Installation(tmp_path / "tritonserver", tmp_path / "backends", tmp_path / "stub")


def test_gpu_config_is_refused_without_a_gpu(gpu_repository, stand_ins, monkeypatch):
    models = folders.models(gpu_repository)
    preflight.check_devices(models, None, stand_ins)
    monkeypatch.setattr(gpus, "gpu_visible", lambda: False)
    with pytest.raises(
        UserError,
        match=r"^bert-large, cuml, postprocess: expected a GPU for KIND_GPU, got no /dev/nvidia0\. To use the",
    ):
        preflight.check_devices(models, "gpu", stand_ins)


@pytest.mark.parametrize(
    ("build", "got", "get"),
    [
        (("2.13.0+cpu", None), r"torch 2\.13\.0\+cpu", "pip install --force-reinstall torch"),
        (None, "no torch", r"pip install 'dualpath\[models\]'"),
    ],
)
def test_gpu_config_is_refused_if_its_stand_in_would_have_no_cuda(
    gpu_repository, stand_ins, tmp_path, monkeypatch, build, got, get
):
    monkeypatch.setattr(gpus, "torch_build", lambda: build)
    monkeypatch.setattr(gpus, "RAPIDS", ())
    models = folders.models(gpu_repository)
    with pytest.raises(UserError, match=rf"^bert-large: expected torch with CUDA for .*, got {got}\. Run `{get}`, or"):
        preflight.check_devices(models, "gpu", stand_ins)
    complete = installation.find(str(install(tmp_path / "triton", "python", "pytorch", "fil")))
    preflight.check_devices(models, "gpu", complete)  # C++ needs no torch
    monkeypatch.setattr(gpus, "torch_build", lambda: ("2.13.0", "13.0"))
    preflight.check_devices(models, "gpu", stand_ins)


@pytest.fixture
def gpu_repository(a_repository, monkeypatch):
    """Models that ask for a GPU, on a machine that shows one and has no RAPIDS."""
    (a_repository / "bert-large" / "1").mkdir(parents=True)
    (a_repository / "bert-large" / "config.pbtxt").write_text(CONFIG.replace("python", "pytorch"))
    for file in ("model.pt", "tokenizer.json"):
        (a_repository / "bert-large" / "1" / file).touch()
    for name in ("bert-large", "cuml", "postprocess"):
        (a_repository / name / "configs").mkdir()
        (a_repository / name / "configs" / "gpu.pbtxt").write_text(
            (a_repository / name / "config.pbtxt").read_text().replace("KIND_CPU", "KIND_GPU")
        )
    monkeypatch.setattr(gpus, "gpu_visible", lambda: True)
    monkeypatch.setattr(gpus, "not_installed", lambda *packages: [name for name in packages if name == "cudf"])
    return a_repository


def test_gpu_config_is_refused_where_the_python_models_would_lack_rapids(gpu_repository, tmp_path, monkeypatch):
    complete = installation.find(str(install(tmp_path / "triton", "python", "pytorch", "fil")))
    models = folders.models(gpu_repository)
    preflight.check_devices(models, None, complete)
    with pytest.raises(UserError, match=r"^postprocess: expected RAPIDS .* got no cudf\. Run `pip install 'dualpath"):
        preflight.check_devices(models, "gpu", complete)
    monkeypatch.setattr(gpus, "not_installed", lambda *packages: [])
    preflight.check_devices(models, "gpu", complete)


def test_a_repository_that_can_do_without_rapids_says_how(gpu_repository, tmp_path):
    complete = installation.find(str(install(tmp_path / "triton", "python", "pytorch", "fil")))
    models = folders.models(gpu_repository)
    for model in models:
        if (model / "configs").is_dir():
            (model / "configs" / "gpu-models.pbtxt").write_text((model / "config.pbtxt").read_text())
    with pytest.raises(
        UserError,
        match=r"Run `pip install 'dualpath\[gpu\]'`, pass --config-name gpu-models, which needs none, or leave",
    ):
        preflight.check_devices(models, "gpu", complete)


@pytest.mark.parametrize(
    ("gpu_visible", "backends", "message"),
    [
        (False, (), "bert-large, cuml, postprocess: expected a GPU for KIND_GPU, got no /dev/nvidia0"),
        (True, (), "bert-large: expected torch with CUDA for KIND_GPU, as the server has no C++ backend pytorch, got"),
        (True, ("pytorch", "fil"), "got no cudf. Run `pip install 'dualpath[gpu]'`"),
    ],
)
def test_a_gpu_that_cannot_be_had_is_one_sentence_and_exit_code_2(
    gpu_repository, tmp_path, monkeypatch, capsys, gpu_visible, backends, message
):
    monkeypatch.setattr(gpus, "gpu_visible", lambda: gpu_visible)
    monkeypatch.setattr(gpus, "torch_build", lambda: ("2.13.0+cpu", None))
    server = install(tmp_path / "triton", "python", *backends)
    arguments = ["serve", "--config-name", "gpu", "--model-repository", gpu_repository, "--server", server]
    monkeypatch.setattr(sys, "argv", ["dualpath", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("dualpath: ")
    assert message in line


@pytest.mark.parametrize(
    ("options", "instead"),
    [(("--config-name", "gpu"), "leave out --config-name"), ((), "give it KIND_CPU")],
)
def test_a_gpu_repository_is_refused_by_the_embedded_server_with_what_to_do(
    gpu_repository, monkeypatch, capsys, options, instead
):
    pytest.importorskip("pytriton", reason="needs dualpath[embedded]")
    monkeypatch.undo()
    monkeypatch.setattr(gpus, "gpu_visible", lambda: True)
    monkeypatch.setattr(gpus, "torch_build", lambda: ("2.13.0+cpu", None))
    if not options:
        for config in gpu_repository.glob("*/configs/gpu.pbtxt"):
            config.replace(config.parent.parent / "config.pbtxt")
    arguments = ["serve", *options, "--model-repository", gpu_repository, "--server", "embedded"]
    monkeypatch.setattr(sys, "argv", ["dualpath", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert "bert-large: expected torch with CUDA for KIND_GPU, as the server has no C++ backend pytorch" in line
    assert line.endswith(f"got torch 2.13.0+cpu. Run `pip install --force-reinstall torch`, or {instead}.")


def test_rapids_may_be_in_an_environment_of_the_models_own(gpu_repository, tmp_path):
    complete = installation.find(str(install(tmp_path / "triton", "python", "pytorch", "fil")))
    config = gpu_repository / "postprocess" / "configs" / "gpu.pbtxt"
    config.write_text(
        config.read_text() + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/srv/env.tar.gz" } }\n'
    )
    preflight.check_devices(folders.models(gpu_repository), "gpu", complete)


def test_ports_that_are_taken_doubled_or_impossible_are_refused_by_option():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            UserError,
            match=rf"--grpc-port: expected a free port on 127\.0\.0\.1, got {port}, which is already in use\. Choose",
        ):
            preflight.check_ports("127.0.0.1", {"--http-port": 0, "--grpc-port": port})
        with pytest.raises(UserError, match="is already in use"):
            preflight.check_ports("0.0.0.0", {"--http-port": port})
    with pytest.raises(UserError, match="--grpc-port, --http-port: expected two ports, got 18321 for both"):
        preflight.check_ports("127.0.0.1", {"--http-port": 18321, "--grpc-port": 18321})
    with pytest.raises(UserError, match=r"--http-port: expected a port from 0 .* got 65536"):
        preflight.check_ports("127.0.0.1", {"--http-port": 65536})
    with pytest.raises(
        UserError, match=r"--host: expected an address of this machine, got 192\.0\.2\.1\. Choose another"
    ):
        preflight.check_ports("192.0.2.1", {"--http-port": 18321})


def test_port_0_becomes_a_free_port_each():
    ports = preflight.check_ports("127.0.0.1", {"--http-port": 0, "--grpc-port": 0, "--metrics-port": 0})
    assert len(set(ports.values())) == 3
    assert all(10240 <= port < 32768 for port in ports.values())


def test_host_is_resolved_to_an_address():
    assert preflight.resolve("localhost") == "127.0.0.1"
    with pytest.raises(UserError, match=r"--host: expected a name or IPv4 address of this machine, got 'x+'"):
        preflight.resolve("x" * 64)


def install(folder: Path, *backends: str, python: str = installation.PYTHON) -> Path:
    """Lay out what an installed Triton looks like."""
    binary = folder / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    for name in backends:
        (folder / "backends" / name).mkdir(parents=True)
    (folder / "backends" / "python" / installation.STUB).write_bytes(f"\0libpython{python}.so.1.0\0".encode())
    return binary


def test_server_path_must_be_an_executable_with_a_python_backend_for_this_python(tmp_path):
    with pytest.raises(UserError, match=r"got no such file\. Pass its path, or --server embedded"):
        installation.find(str(tmp_path / "tritonserver"))
    (tmp_path / "tritonserver").touch(mode=0o644)
    with pytest.raises(UserError, match="got a file that is not executable"):
        installation.find(str(tmp_path / "tritonserver"))
    (tmp_path / "tritonserver").chmod(0o755)
    with pytest.raises(UserError, match=r"expected a Python backend .* got no .*stub"):
        installation.find(str(tmp_path / "tritonserver"))
    other = install(tmp_path / "other", "python", python="3.99")
    with pytest.raises(UserError, match=r"expected a Python backend for Python 3\.1\d, got one for Python 3\.99"):
        installation.find(str(other))


def test_auto_prefers_an_installed_server(tmp_path, monkeypatch):
    binary = install(tmp_path, "python", "pytorch", "fil")
    monkeypatch.setattr(installation, "CONTAINER_SERVER", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    found = installation.find()
    assert found.binary == binary
    assert found.environment()["PATH"].startswith(f"{Path(sys.executable).parent}{os.pathsep}")
    assert found.assemble_backends(tmp_path / "target") == tmp_path / "backends"


def test_missing_backends_are_filled_with_stand_ins(tmp_path):
    found = installation.find(str(install(tmp_path / "triton", "python", "pytorch")))
    assembled = found.assemble_backends(tmp_path / "target")
    assert sorted(path.name for path in assembled.iterdir()) == ["fil", "python", "pytorch"]
    assert "Stand-in for Triton's C++ `fil` backend" in (assembled / "fil" / "model.py").read_text()
    assert (assembled / "pytorch").resolve() == tmp_path / "triton" / "backends" / "pytorch"
    assert (assembled / "python" / installation.STUB).is_file()


def test_embedded_server_names_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected one, got none\. Run `pip install 'dualpath\[embedded\]'`"):
        installation.find("embedded")
    monkeypatch.setattr(installation.sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(installation.sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(installation, "_ldconfig", lambda: "")
    with pytest.raises(
        UserError, match=rf"expected libpython.* got none\. Run `apt install libpython{installation.PYTHON}"
    ):
        installation.libpython_folder()
    library = tmp_path / f"libpython{installation.PYTHON}.so.1.0"
    library.touch()
    monkeypatch.setattr(installation, "_ldconfig", lambda: f"\t{library.name} (libc6,x86-64) => {library}\n")
    assert installation.libpython_folder() == tmp_path


def test_embedded_server_refuses_an_unsupported_python(monkeypatch):
    pytest.importorskip("pytriton", reason="needs dualpath[embedded]")
    monkeypatch.setattr(installation, "PYTHON", "3.99")
    with pytest.raises(UserError, match=r"expected a Python backend for Python 3\.99, got only for .*3\.11"):
        installation.find("embedded")


def test_embedded_server_refuses_numpy_2(monkeypatch):
    pytest.importorskip("pytriton", reason="needs dualpath[embedded]")
    monkeypatch.setattr(installation.importlib.metadata, "version", lambda name: "2.4.6")
    with pytest.raises(UserError, match=r"expected NumPy 1, got 2\.4\.6\. Give RAPIDS .* an environment of its own"):
        installation.find("embedded")


def test_server_that_ends_at_once_is_reported_with_its_last_words(a_repository, tmp_path):
    binary = install(tmp_path / "triton", "python", "pytorch", "fil")
    binary.write_text("#!/bin/sh\necho 'tritonserver: error while loading shared libraries: libb64.so.0d'\nexit 127\n")
    server = TritonServer(
        a_repository, server=str(binary), http_port=0, grpc_port=0, metrics_port=0, log_path=tmp_path / "triton.log"
    )
    with pytest.raises(StartFailed, match=r"ended by itself: .*libb64\.so\.0d\. Triton's log: .*triton\.log"):
        server.start()
    server.stop()


def test_server_that_never_gets_ready_is_given_up(a_repository, tmp_path):
    binary = install(tmp_path / "triton", "python", "pytorch", "fil")
    binary.write_text("#!/bin/sh\nexec sleep 300\n")
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    server = TritonServer(
        a_repository, server=str(binary), log_path=tmp_path / "triton.log", start_timeout_s=0.5, **ports
    )
    with pytest.raises(StartFailed, match="cuml, ensemble_all, postprocess still loading"):
        server.start()
    assert not Path(f"/proc/{server.pid}").exists()
