"""Versions of a model repository: which belong together, and how a new one comes whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dualpath.errors import UserError
from dualpath.readability import releases
from dualpath.training import artifacts
from dualpath.training.artifacts import publishing

READER = 'backend: "python"\nparameters { key: "t" value { string_value: "../bert-large/{version}/tokenizer.json" } }\n'
BOTH = ("bert-large", "cuml")


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "model_repository"
    for name, file in (("bert-large", "model.pt"), ("cuml", "checkpoint.tl"), ("reader", "model.py"), ("own", "a.py")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / file).write_text(f"{name} 1")
        (folder / name / "config.pbtxt").write_text(READER if name == "reader" else "# ../bert-large/{version}/\n")
    return folder


def contents(repository):
    return {str(path.relative_to(repository)): path.read_text() for path in repository.rglob("*") if path.is_file()}


def publish(repository, *names, version=None, text="new"):
    with publishing(repository, names, version) as folders:
        for folder in folders.values():
            (folder / "model.pt").write_text(text)


def test_a_release_has_the_models_with_artifacts_and_those_that_read_them_by_version(repository):
    assert [path.name for path in releases.members(repository)] == ["bert-large", "cuml", "reader"]


def test_versions_are_folders_named_as_triton_names_them(repository):
    model = repository / "bert-large"
    for name in ("2", "10", "011", "1a", ".unfinished", "3"):
        (model / name).mkdir()
        if name != "3":
            (model / name / "model.pt").touch()
    (model / "3" / ".gitkeep").touch()
    (model / "4").touch()
    assert [path.name for path in releases.versions(model)] == ["10", "3", "2", "1"]
    assert releases.newest_release(repository) == 10
    assert releases.newest(model).name == "10"
    assert releases.newest(repository / "none").name == "1"


def test_a_new_version_is_one_above_the_newest_of_all_and_the_others_are_links(repository):
    (repository / "cuml" / "4").mkdir()
    (repository / "cuml" / "4" / "checkpoint.tl").write_text("cuml 4")
    publish(repository, "bert-large")
    assert contents(repository / "bert-large/5") == {"model.pt": "new"}
    assert os.readlink(repository / "cuml/5") == "4"
    assert os.readlink(repository / "reader/5") == "1"
    assert not (repository / "own/5").exists()
    assert sorted(path.name for path in repository.parent.iterdir()) == ["model_repository"]


def test_a_model_without_any_version_is_left_without(repository):
    (repository / "cuml/1/checkpoint.tl").unlink()
    publish(repository, "bert-large")
    assert sorted(path.name for path in (repository / "cuml").iterdir()) == ["1", "config.pbtxt"]


def test_a_replaced_version_is_marked_until_a_server_starts_and_its_links_keep_their_files(repository):
    for _ in range(2):
        publish(repository, "bert-large")  # cuml/2 and cuml/3 are links to cuml/1
    publish(repository, "cuml", version=1, text="replaced")
    assert contents(repository / "cuml/1") == {"model.pt": "replaced", ".replaced": ""}
    for version in "23":
        assert (repository / "cuml" / version / "checkpoint.tl").read_text() == "cuml 1"
    releases.start_anew(repository)
    assert contents(repository / "cuml/1") == {"model.pt": "replaced"}


def test_a_link_that_is_replaced_leaves_what_it_was_a_link_to(repository):
    publish(repository, "bert-large")
    publish(repository, "cuml", version=2, text="replaced")
    assert contents(repository / "cuml/1") == {"checkpoint.tl": "cuml 1"}
    assert contents(repository / "cuml/2") == {"model.pt": "replaced", ".replaced": ""}


def test_a_version_is_replaced_where_the_file_system_cannot_exchange(repository, monkeypatch):
    monkeypatch.setattr(artifacts.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=lambda *_: -1))
    publish(repository, "cuml", version=1, text="replaced")
    assert contents(repository / "cuml/1") == {"model.pt": "replaced", ".replaced": ""}
    assert sorted(path.name for path in (repository / "cuml").iterdir()) == ["1", "config.pbtxt"]


def test_a_version_that_is_between_two_names_gets_its_own_back(repository):
    (repository / "cuml/1").rename(repository / "cuml/.unfinished-1")
    with releases.locked(repository):
        assert contents(repository / "cuml/1") == {"checkpoint.tl": "cuml 1"}


def test_a_version_is_written_inside_the_repository_where_nothing_beside_it_can_be(repository, monkeypatch):
    def refuse(_):
        raise OSError("read-only")

    monkeypatch.setattr(artifacts, "_beside", refuse)
    publish(repository, *BOTH)
    assert [contents(repository / name / "2") for name in BOTH] == [{"model.pt": "new"}] * 2
    assert sorted(path.name for path in (repository / "bert-large").iterdir()) == ["1", "2", "config.pbtxt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("version", [None, 1])
def test_a_block_that_fails_changes_nothing(repository, error, version):
    before = contents(repository.parent)

    def fail():
        with publishing(repository, BOTH, version) as folders:
            (folders["cuml"] / "checkpoint.tl").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert contents(repository.parent) == before


@pytest.mark.parametrize(
    ("names", "version", "message"),
    [
        (["none"], None, "expected a model repository with none, found none in it"),
        (["cuml"], 0, "a number from 1, fou"),
    ],
)
def test_what_cannot_be_published_is_refused(repository, names, version, message):
    with pytest.raises(UserError, match=message):
        publish(repository, *names, version=version)


def test_a_model_whose_folder_cannot_be_written_is_named(repository, monkeypatch):
    monkeypatch.setattr(artifacts.os, "access", lambda path, mode: path != repository / "cuml")
    with pytest.raises(UserError, match=r"/cuml: expected a folder to write to, found one that cannot be written\."):
        publish(repository, *BOTH)


def test_an_incomplete_release_is_completed_and_what_is_unfinished_removed(repository):
    (repository / "reader/2").symlink_to("1")  # killed here
    (repository / "cuml/.unfinished-link").mkdir()
    with releases.locked(repository):
        releases.complete(repository)
    assert [os.readlink(repository / name / "2") for name in BOTH] == ["1", "1"]
    assert not (repository / "cuml/.unfinished-link").exists()


PUBLISH = """
import sys, time
from pathlib import Path
from dualpath.training.artifacts import publishing
repository = Path(sys.argv[1])
n = 0
while True:
    n += 1
    with publishing(repository, ["bert-large", "cuml"], 2) as folders:
        for name, folder in folders.items():
            for part in "abc":
                (folder / part).write_text(f"{n}")
                time.sleep(0.0005)
    print(n, flush=True)
"""


def test_a_killed_process_leaves_every_version_whole(repository):
    for turn in range(5):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(repository)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "1\n"
        time.sleep(0.05 + 0.013 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for name in BOTH:
            parts = contents(repository / name / "2")
            parts.pop(".replaced", None)
            assert parts.keys() == {"a", "b", "c"}
            assert len(set(parts.values())) == 1
    publish(repository, *BOTH, version=2)
    assert sorted(path.name for path in repository.parent.iterdir()) == ["model_repository"]
    assert sorted(path.name for path in (repository / "cuml").iterdir()) == ["1", "2", "config.pbtxt"]
