"""What `dualpath bench` serves: whether there is a GPU for it, and which artifacts."""

from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest

from dualpath.compare import bench_servers
from dualpath.compare import server as compare_server
from dualpath.errors import UserError
from dualpath.repository.facts import Facts
from dualpath.serving import gpus
from paths import REPOSITORY


def test_no_gpu_is_said_in_two_words(monkeypatch):
    monkeypatch.setattr(gpus, "gpu_visible", lambda: False)
    assert bench_servers.why_no_gpu(REPOSITORY) == "no GPU"


@pytest.mark.parametrize("config_name", ["gpu", "gpu-models"])
def test_a_gpu_that_the_server_cannot_use_is_explained(monkeypatch, config_name):
    monkeypatch.setattr(gpus, "gpu_visible", lambda: True)
    monkeypatch.setattr(gpus, "torch_build", lambda: ("2.13.0+cpu", None))
    monkeypatch.setattr(bench_servers.installation, "find", partial(bench_servers.installation.find, "embedded"))
    assert "bert-large: expected torch with CUDA" in bench_servers.why_no_gpu(REPOSITORY, config_name)


def test_without_rapids_only_the_models_can_be_on_the_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "gpu_visible", lambda: True)
    monkeypatch.setattr(gpus, "torch_build", lambda: ("2.13.0", "13.0"))
    monkeypatch.setattr(gpus, "not_installed", lambda *packages: list(packages))
    monkeypatch.setattr(bench_servers.installation, "find", partial(bench_servers.installation.find, "embedded"))
    assert "expected RAPIDS in this Python" in bench_servers.why_no_gpu(REPOSITORY, "gpu")
    assert bench_servers.why_no_gpu(REPOSITORY, "gpu-models") is None


def test_a_gpu_with_the_backends_it_needs_is_used(monkeypatch):
    monkeypatch.setattr(gpus, "gpu_visible", lambda: True)
    monkeypatch.setattr(bench_servers.installation, "find", lambda: SimpleNamespace(missing_backends=list))
    monkeypatch.setattr(gpus, "RAPIDS", ())  # as if it were there
    assert bench_servers.why_no_gpu(REPOSITORY) is None


def test_a_repository_without_the_model_is_refused(tmp_path):
    (tmp_path / "cuml").mkdir()
    (tmp_path / "cuml" / "config.pbtxt").write_text("")
    refused = bench_servers.serve_setups(tmp_path, "orchestrator", "minilm", [], tmp_path, None, print)
    with (
        pytest.raises(UserError, match=r"bert-large: expected a model of .*, got one that it lacks\. It has cuml\."),
        refused,
    ):
        pass


def test_every_connection_is_closed_before_its_server_stops(monkeypatch, tmp_path):
    ended = []

    @contextmanager
    def start(model_repository, config_name=None):
        yield SimpleNamespace(grpc_url=str(config_name))
        ended.append(f"server {config_name}")

    class Connection:
        def __init__(self, url):
            self.url = url

        def get_model_repository_index(self):
            return SimpleNamespace(models=[])

        def close(self):
            ended.append(f"connection {self.url}")

    monkeypatch.setattr(compare_server, "live_client", lambda url, headers: Connection(url))
    monkeypatch.setattr(bench_servers, "why_no_gpu", lambda repository, config_name: None)
    with bench_servers.serve_setups(REPOSITORY, "orchestrator", "minilm", [], tmp_path, start, print) as [place]:
        assert (place.cpu.url, place.gpu.url, place.text_on_cpu.url) == ("None", "gpu", "gpu-models")
        assert ended == []
    names = ("gpu-models", "gpu", None)
    assert ended == [f"{what} {name}" for name in names for what in ("connection", "server")]


def test_the_precision_is_that_of_the_version_that_is_served_not_of_the_newest(monkeypatch, tmp_path):
    for version, precision in ((1, "bfloat16"), (2, "float32"), (3, "float16")):
        folder = tmp_path / "bert-large" / str(version)
        folder.mkdir(parents=True)
        Facts(encoder=f"encoder {version}", precision=precision).write(folder)

    def precision_of(*served):
        index = [SimpleNamespace(name="bert-large", version=str(version), state="READY") for version in served]
        client = SimpleNamespace(
            get_model_repository_index=lambda: SimpleNamespace(models=index), close=lambda: None, url="url"
        )
        monkeypatch.setattr(compare_server, "live_client", lambda url, headers: client)
        start = nullcontext(SimpleNamespace(grpc_url="url"))
        with compare_server.serving(tmp_path, lambda model_repository, config_name: start) as server:
            return server.precision

    assert (precision_of(1), precision_of(2), precision_of(1, 2), precision_of()) == (
        "bfloat16",
        "float32",
        "bfloat16",
        None,
    )


def test_other_artifacts_take_the_place_of_the_repository_s_own(tmp_path):
    built = tmp_path / "built"
    for file in ("bert-large/1/model.pt", "bert-large/1/tokenizer.json", "cuml/1/checkpoint.tl"):
        (built / file).parent.mkdir(parents=True, exist_ok=True)
        (built / file).write_text(f"another {file}")
    repository = bench_servers.with_artifacts(REPOSITORY, built, tmp_path / "scratch")
    assert (repository / "bert-large/1/model.pt").read_text() == "another bert-large/1/model.pt"
    assert sorted(path.name for path in (repository / "cuml/1").iterdir()) == ["checkpoint.tl"]
    for file in ("bert-large/config.pbtxt", "orchestrator/1/model.py", "orchestrator/configs/gpu.pbtxt"):
        assert (repository / file).read_text() == (REPOSITORY / file).read_text()


def test_what_a_build_refuses_comes_back_from_its_process(tmp_path):
    with pytest.raises(UserError, match=r"precision: expected .*, got 'int4'"):
        bench_servers.build_encoder(tmp_path, "minilm", "int4", print)


def test_a_work_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--work-dir: expected a folder to write to"):
        bench_servers.build_encoder(tmp_path / "file", "minilm", "float32", print)


def test_the_work_folder_is_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bench_servers.default_work_dir() == tmp_path / "dualpath"
