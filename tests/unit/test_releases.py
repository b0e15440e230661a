"""Versions of a model repository: which belong together, how a new one comes whole or not at all, and which go."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dualpath.errors import UserError
from dualpath.repository import folders, publishing, releases
from dualpath.repository.facts import Facts
from dualpath.repository.pruning import prune

READER = """backend: 'python'
parameters { key: "t" value { string_value: "../bert-large/{version}/tokenizer.json" } }
parameters { key: "u" value { string_value: '../cuml/{version}/word_lists.json # not a comment' } }
"""
BOTH = ("bert-large", "cuml")


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "model_repository"
    for name, file in (("bert-large", "model.pt"), ("cuml", "checkpoint.tl"), ("reader", "model.py"), ("own", "a.py")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / file).write_text(f"{name} 1")
        (folder / name / "config.pbtxt").write_text(READER if name == "reader" else "# ../own/{version}/\n")
    return folder


def contents(repository):
    return {str(path.relative_to(repository)): path.read_text() for path in repository.rglob("*") if path.is_file()}


def publish(repository, *names, text="new", **options):
    def write(folder):
        (folder / "model.pt").write_text(text)
        return Facts(precision="float32")

    return publishing.publish(repository, dict.fromkeys(names, write), **options)


def there(repository, name):
    return sorted(path.name for path in (repository / name).iterdir() if path.name != "config.pbtxt")


def test_a_release_has_the_models_that_read_by_version_and_those_that_are_read(repository):
    assert releases.readers(repository) == {"reader": {"bert-large", "cuml"}}
    assert [path.name for path in releases.members(repository)] == ["bert-large", "cuml", "reader"]


def test_what_was_published_is_a_member_too(tmp_path):
    for name in BOTH:
        (tmp_path / name).mkdir()
    publish(tmp_path, "cuml")
    assert releases.members(tmp_path) == [tmp_path / "cuml"]


def test_versions_are_folders_named_as_triton_names_them(repository):
    model = repository / "bert-large"
    for name in ("0", "2", "10", "011", "1a", ".unfinished", "3"):
        (model / name).mkdir()
        if name != "3":
            (model / name / "model.pt").touch()
    (model / "3" / ".gitkeep").touch()
    (model / "4").touch()
    assert [path.name for path in folders.versions(model)] == ["10", "3", "2", "1", "0"]
    assert [path.name for path in folders.filled(model)] == ["10", "2", "1", "0"]
    assert releases.newest_release(repository) == 10
    assert folders.newest(model).name == "10"
    assert folders.newest(repository / "none").name == "1"


def test_version_0_is_a_release(repository):
    for name in (*BOTH, "reader"):
        (repository / name / "1").rename(repository / name / "0")
    assert releases.releases(repository) == [0]
    assert releases.newest_release(repository) == 0
    assert publish(repository, *BOTH) == 1


def test_the_first_version_is_that_of_the_code_which_reads_it(repository):
    for name, file in (("bert-large", "model.pt"), ("cuml", "checkpoint.tl")):
        (repository / name / "1" / file).unlink()
    assert releases.releases(repository) == []
    assert publish(repository, *BOTH) == 1
    assert releases.releases(repository) == [1]
    assert publish(repository, *BOTH) == 2


def test_a_new_version_is_one_above_the_newest_of_all_and_the_others_are_links(repository):
    (repository / "cuml" / "4").mkdir()
    (repository / "cuml" / "4" / "checkpoint.tl").write_text("cuml 4")
    assert publish(repository, "bert-large") == 5
    assert (repository / "bert-large/5/model.pt").read_text() == "new"
    assert os.readlink(repository / "cuml/5") == "4"
    assert os.readlink(repository / "reader/5") == "1"
    assert not (repository / "own/5").exists()
    assert releases.releases(repository) == [5, 1]
    assert sorted(path.name for path in repository.parent.iterdir()) == ["model_repository"]


def test_a_version_has_facts_with_the_digests_of_its_files(repository):
    publish(repository, "bert-large")
    version = repository / "bert-large/2"
    facts = Facts.of(version)
    digest = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"  # of "new"
    assert (facts.precision, facts.artifacts) == ("float32", {"model.pt": digest})
    assert facts.damaged(version) == []
    (version / "model.pt").write_text("newer")
    assert facts.damaged(version) == ["model.pt"]
    assert Facts.of(repository / "cuml/1") == Facts()


def test_a_model_without_any_version_is_left_without(repository):
    (repository / "cuml/1/checkpoint.tl").unlink()
    publish(repository, "bert-large")
    assert there(repository, "cuml") == ["1"]


def test_a_version_is_written_inside_the_repository_if_nothing_beside_it_can_be(repository, monkeypatch):
    def refuse(_):
        raise OSError("read-only")

    monkeypatch.setattr(publishing, "_beside", refuse)
    publish(repository, *BOTH)
    for name in BOTH:
        assert (repository / name / "2/model.pt").read_text() == "new"
        assert there(repository, name) == ["1", "2"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_version_that_cannot_be_written_changes_nothing(repository, error):
    before = contents(repository.parent)

    def fail(folder):
        (folder / "checkpoint.tl").write_text("half")
        raise error

    with pytest.raises(type(error)):
        publishing.publish(repository, dict.fromkeys(BOTH, fail))
    assert contents(repository.parent) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_release_of_which_one_folder_cannot_be_put_in_place_changes_nothing(repository, monkeypatch, error):
    before = {path: path.is_symlink() for path in repository.rglob("*")}
    rename = os.rename

    def fail_at_second(path, target):
        if str(target) == str(repository / "cuml/2"):
            raise error
        rename(path, target)

    monkeypatch.setattr(publishing.os, "rename", fail_at_second)
    with pytest.raises(type(error)):
        publish(repository, *BOTH)
    assert {path: path.is_symlink() for path in repository.rglob("*")} == before
    assert [path.name for path in repository.parent.iterdir()] == ["model_repository"]


def test_who_has_to_wait_for_another_command_says_so(repository):
    said = []
    with releases.locked(repository, said.append):
        assert said == []
        waiting = threading.Thread(target=publish, args=(repository, *BOTH), kwargs={"report": said.append})
        waiting.start()
        while not said and waiting.is_alive():
            time.sleep(0.01)
        assert said == [f"{repository}: waiting for another command that changes or loads its versions"]
        assert there(repository, "cuml") == ["1"]
    waiting.join()
    assert there(repository, "cuml") == ["1", "2"]


def test_a_model_that_is_not_there_is_refused(repository):
    with pytest.raises(UserError, match="expected a model repository with none, got none in it"):
        publish(repository, "none")


def test_a_model_whose_folder_cannot_be_written_is_named(repository, monkeypatch):
    monkeypatch.setattr(publishing.os, "access", lambda path, mode: path != repository / "cuml")
    with pytest.raises(UserError, match=r"/cuml: expected a folder to write to, got one that cannot be written\."):
        publish(repository, *BOTH)


def test_an_incomplete_release_is_completed_and_what_is_unfinished_removed(repository):
    (repository / "reader/2").symlink_to("1")  # killed here
    (repository / "cuml/.unfinished-link").mkdir()
    with releases.locked(repository):
        releases.complete(repository)
    assert [os.readlink(repository / name / "2") for name in BOTH] == ["1", "1"]
    assert not (repository / "cuml/.unfinished-link").exists()


def test_a_release_that_cannot_be_completed_is_named(repository, monkeypatch):
    (repository / "reader/2").symlink_to("1")

    def refuse(self, target):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(UserError, match=r"cuml/2: expected version 2, which other members have, got none, .* denied\."):
        releases.complete(repository)


# Pruning


@pytest.fixture
def four(repository):
    """Releases 1 to 4 over what was written by hand: both models in 2, BERT in 3, the forest in 4."""
    publish(repository, *BOTH)
    publish(repository, "bert-large")
    publish(repository, "cuml")
    return repository


def named(gone, repository):
    return {str(path.relative_to(repository)): size is not None for path, size in gone.items()}


def test_pruning_leaves_the_newest_release_and_what_it_is_made_of(four):
    gone = prune(four, dict)
    assert named(gone, four) == {
        **{f"{name}/{version}": False for name, version in (("reader", 3), ("reader", 2), ("cuml", 3))},
        **{"cuml/2": True, "bert-large/2": True},
    }
    assert releases.releases(four) == [4, 1]  # version 1 was written by hand
    assert os.readlink(four / "bert-large/4") == "3"
    assert there(four, "bert-large") == ["1", "3", "4"]
    assert prune(four, dict) == {}


def test_pruning_leaves_what_a_server_has_and_what_an_ensemble_names(four):
    (four / "ens_v3").mkdir()
    (four / "ens_v3/config.pbtxt").write_text(
        'platform: "ensemble" ensemble_scheduling { step [ { model_name: "cuml", model_version: 3 } ] }'
    )
    before = contents(four)
    assert prune(four, lambda: {"bert-large": {2}, "own": {7}}) == {}
    assert named(prune(four, dict, dry_run=True), four).keys() == {"reader/2", "bert-large/2"}  # cuml/3 is a link to 2
    assert contents(four) == before


def test_pruning_leaves_the_newest_whole_release(four):
    (four / "reader/4").unlink()
    prune(four, dict)
    assert releases.releases(four) == [3, 1]


def test_a_first_version_gets_the_number_of_the_newest_release_also_if_that_is_0(repository):
    for name in ("bert-large", "reader"):
        (repository / name / "1").rename(repository / name / "0")
    (repository / "cuml/1/checkpoint.tl").unlink()
    (repository / "cuml/1").rmdir()
    assert publish(repository, "cuml") == 0
    assert releases.releases(repository) == [0]


def test_one_release_is_pruned_by_number_even_the_newest(four):
    prune(four, dict, only=[4])
    assert releases.releases(four) == [3, 2, 1]
    assert publish(four, "cuml") == 4


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ([7], "release 7: expected one of 1, 2, 3, 4, got another"),
        ([3], "release 3: expected one that nothing serves and no ensemble names, got one that is needed"),
        ([1, 2, 4], "release 1, 2, 4: expected another whole release to stay, got none"),
    ],
)
def test_a_release_that_is_needed_is_not_pruned(four, only, message):
    served = {"cuml": {3}} if only == [3] else {}
    if len(only) > 1:
        (four / "reader/3").unlink()
    with pytest.raises(UserError, match=message):
        prune(four, lambda: served, only)
    assert there(four, "cuml") == ["1", "2", "3", "4"]


PUBLISH = """
import sys, time
from pathlib import Path
from dualpath.repository.facts import Facts
from dualpath.repository.publishing import publish

def write(folder):
    for part in "abc":
        (folder / part).write_text(str(n))
        time.sleep(0.0005)
    return Facts()

n = 0
while True:
    n += 1
    publish(Path(sys.argv[1]), {"bert-large": write, "cuml": write})
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
            for version in folders.filled(repository / name)[:-1]:
                parts = {file.name: file.read_text() for file in version.iterdir()}
                parts.pop("version.json")
                assert parts.keys() == {"a", "b", "c"}
                assert len(set(parts.values())) == 1
                assert Facts.of(version).damaged(version) == []
    publish(repository, *BOTH)
    assert sorted(path.name for path in repository.parent.iterdir()) == ["model_repository"]
    assert not list(repository.glob("*/.*"))
