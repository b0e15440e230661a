"""What `dualpath env` writes to a model repository, and what it refuses before."""

import io
import tarfile

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as proto

from dualpath.errors import UserError
from dualpath.serving import environment
from dualpath.serving.installation import STUB
from paths import REPOSITORY

HERE = "$$TRITON_MODEL_DIRECTORY/environment.tar.gz"


@pytest.fixture
def models(tmp_path):
    """Two Python models with the project's own configs, and one of another backend."""
    for name in ("preprocess", "postprocess", "cuml"):
        (tmp_path / name / "configs").mkdir(parents=True)
        for config in ("config.pbtxt", "configs/gpu.pbtxt"):
            (tmp_path / name / config).write_text((REPOSITORY / name / config).read_text())
    return environment.python_models(tmp_path, [])


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "a_stub"
    path.write_bytes(b"\0libpython3.12.so.1.0\0")
    return path


def archive(path, *names):
    with tarfile.open(path, "w:gz") as packed:
        for name in names or ("pyvenv.cfg", "lib/python3.12/site-packages/numpy/__init__.py"):
            packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def values(model):
    """What each config says of the environment, read as Triton reads it."""
    for config in (model / "config.pbtxt", model / "configs" / "gpu.pbtxt"):
        parameters = text_format.Parse(config.read_text(encoding="utf-8"), proto.ModelConfig()).parameters
        yield parameters["EXECUTION_ENV_PATH"].string_value if "EXECUTION_ENV_PATH" in parameters else None


def by_hand(value):
    """The parameter as Triton's documentation writes it."""
    return f'parameters: {{\n  key: "EXECUTION_ENV_PATH",\n  value: {{string_value: "{value}"}}\n}}\n'


def texts(models):
    return {path: path.read_text() for model in models for path in model.rglob("*.pbtxt")}


def test_models_are_the_python_ones_by_name_or_all(models, tmp_path):
    assert [model.name for model in models] == ["postprocess", "preprocess"]
    assert environment.python_models(tmp_path, ["preprocess", "preprocess"]) == [tmp_path / "preprocess"]
    with pytest.raises(UserError, match=r"--models cuml: .* a model of another backend\. It has: postprocess, pre"):
        environment.python_models(tmp_path, ["preprocess", "cuml"])
    with pytest.raises(UserError, match=r"--models nowhere: .* got no such model"):
        environment.python_models(tmp_path, ["nowhere"])


def test_both_configs_of_each_model_name_the_archive_beside_them(models, stub, tmp_path):
    environment.attach(models, archive(tmp_path / "packed.tar.gz"), stub)
    for model in models:
        assert list(values(model)) == [HERE, HERE]
        assert (model / "environment.tar.gz").samefile(tmp_path / "packed.tar.gz")  # one on the disk
        assert (model / STUB).read_bytes() == stub.read_bytes()
        assert (model / STUB).stat().st_mode & 0o777 == 0o755
        assert sorted(path.name for path in model.iterdir()) == [
            "config.pbtxt",
            "configs",
            "environment.tar.gz",
            STUB,
        ]


def test_attaching_again_changes_what_is_said_and_nothing_is_said_twice(models, stub, tmp_path):
    environment.attach(models, archive(tmp_path / "first.tar.gz"), stub)
    once = texts(models)
    environment.attach(models, archive(tmp_path / "second.tar.gz"), stub)
    assert texts(models) == once
    output = tmp_path / 'a "b" ü.tar.gz'
    assert environment.attach(models, archive(tmp_path / "third.tar.gz"), None, output) == output
    for model in models:
        assert list(values(model)) == [str(output), str(output)]
        assert not (model / STUB).exists()  # of the environment before, as was the archive
        assert not (model / "environment.tar.gz").exists()


def test_detaching_restores_every_byte(models, stub, tmp_path):
    before = texts(models)
    environment.attach(models[:1], archive(tmp_path / "packed.tar.gz"), stub)
    assert environment.detach(models) == models[:1]
    assert texts(models) == before
    assert not (models[0] / STUB).exists()
    assert not (models[0] / "environment.tar.gz").exists()
    assert environment.detach(models) == []


def test_detaching_leaves_alone_what_it_did_not_write(models, stub):
    (models[0] / STUB).write_bytes(stub.read_bytes())
    assert environment.detach(models) == []
    assert (models[0] / STUB).exists()


def test_an_environment_that_someone_wrote_by_hand_is_refused_before_anything_is_written(models):
    config = models[1] / "configs" / "gpu.pbtxt"
    config.write_text(config.read_text() + by_hand(HERE))
    with pytest.raises(UserError, match=r"gpu\.pbtxt: expected no EXECUTION_ENV_PATH, got one written by hand"):
        environment.check(models)
    config.write_text("# EXECUTION_ENV_PATH is explained elsewhere\n")
    environment.check(models)


def test_a_folder_that_is_none_is_refused(models, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: expected a folder to write to, got: No such file"):
        environment.check_writable(tmp_path / "nowhere")


def test_a_failure_leaves_configs_and_folders_as_they_were(models, tmp_path):
    before = texts(models)
    with pytest.raises(UserError, match=rf"postprocess/{STUB}: expected a file to write, got: No such file"):
        environment.attach(models, archive(tmp_path / "packed.tar.gz"), tmp_path / "no_stub")
    assert texts(models) == before
    assert not [path for model in models for path in model.glob(".*")]


def test_serving_refuses_an_environment_that_is_missing(models, stub, tmp_path):
    environment.attach(models, archive(tmp_path / "packed.tar.gz"), None)
    environment.check_attached(models, None, stub)
    (models[1] / "environment.tar.gz").unlink()
    with pytest.raises(UserError, match=r"preprocess: expected its environment at .*/environment\.tar\.gz, got"):
        environment.check_attached(models, "gpu", stub)


def test_serving_refuses_an_environment_of_another_python_than_the_stub(models, stub, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"\0libpython3.11.so.1.0\0")
    environment.attach(models, archive(tmp_path / "packed.tar.gz"), None)
    with pytest.raises(
        UserError, match=r"postprocess: expected an environment with its stub's Python 3\.11, got Python 3\.12"
    ):
        environment.check_attached(models, None, other)
    environment.attach(models, archive(tmp_path / "again.tar.gz"), stub)
    environment.check_attached(models, None, other)


def test_serving_reads_what_others_wrote(models, stub, tmp_path):
    config = models[0] / "config.pbtxt"
    text = config.read_text()
    (tmp_path / "unpacked" / "lib" / "python3.11").mkdir(parents=True)
    config.write_text(text + by_hand(tmp_path / "unpacked"))
    with pytest.raises(UserError, match=r"with its stub's Python 3\.12, got Python 3\.11"):
        environment.check_attached(models, None, stub)
    config.write_text(text + by_hand("s3://bucket/env.tar.gz"))
    environment.check_attached(models, None, stub)
    (tmp_path / "env.tar.gz").write_text("not an archive")
    config.write_text(text + by_hand(tmp_path / "env.tar.gz"))
    with pytest.raises(UserError, match=r"env\.tar\.gz: expected an environment's archive, got: "):
        environment.check_attached(models, None, stub)
