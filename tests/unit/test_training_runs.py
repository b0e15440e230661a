"""A training run's folder: it goes on only with the same run, alone, and every file in it is whole."""

import numpy as np
import pytest

from dualpath.errors import UserError
from dualpath.training.bert.settings import Evaluation
from dualpath.training.runs import fingerprint, opened

SETTINGS = {"data": "abc", "epochs": 3}


def evaluation(step: int, rmse: float = 0.5) -> Evaluation:
    return Evaluation(step, step / 10, 1e-4, 0.6, rmse, 1.5)


def test_finished_parts_are_found_again(tmp_path):
    with opened(tmp_path / "run", SETTINGS) as run:
        assert run.done("fold-1") is None
        for name in ("fold-1", "fold-1.2", "fold-10"):
            run.checkpoint(name).write_bytes(b"half way")
        run.finish("fold-1", scores=np.arange(3, dtype=np.float32), stop=0.5)
    with opened(tmp_path / "run", SETTINGS) as run:
        found = run.done("fold-1")
        assert found["scores"].tolist() == [0, 1, 2]
        assert float(found["stop"]) == 0.5
        assert [path.name for path in run.folder.glob("*.pt")] == ["fold-10.pt"]
        assert run.done("fold-2") is None


def test_a_folder_of_another_run_is_refused_and_left_as_it_is(tmp_path):
    with opened(tmp_path, SETTINGS) as run:
        run.finish("fold-1", stop=0.5)
    with (
        pytest.raises(UserError, match=r"expected a run with epochs 4, got one with 3\..*--fresh"),
        opened(tmp_path, SETTINGS | {"epochs": 4}),
    ):
        pass
    with opened(tmp_path, SETTINGS) as run:
        assert run.done("fold-1") is not None


def test_fresh_forgets_what_the_folder_holds_but_no_foreign_file(tmp_path):
    with opened(tmp_path, SETTINGS) as run:
        run.finish("fold-1", stop=0.5)
        run.log("fold-1", [evaluation(1)])
    (tmp_path / "notes.txt").write_text("mine")
    with opened(tmp_path, SETTINGS | {"epochs": 4}, fresh=True) as run:
        assert run.done("fold-1") is None
        assert not (tmp_path / "log.csv").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    refused = pytest.raises(UserError, match="expected a folder of its own, got another run's")
    with opened(tmp_path, SETTINGS), refused, opened(tmp_path, SETTINGS):
        pass
    with opened(tmp_path, SETTINGS):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"--run-dir .*file/run: expected a folder to write to"),
        opened(tmp_path / "file" / "run", SETTINGS),
    ):
        pass


def test_the_log_has_a_line_per_evaluation_and_none_twice(tmp_path):
    with opened(tmp_path, SETTINGS) as run:
        run.log("fold-1", [evaluation(5)])
        run.log("fold-2", [evaluation(5)])
        run.log("fold-1", [evaluation(5), evaluation(10, 0.4)])
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "part,step,epoch,learning_rate,train_rmse,validation_rmse,elapsed_s"
    assert [line.split(",")[:2] for line in lines[1:]] == [["fold-2", "5"], ["fold-1", "5"], ["fold-1", "10"]]


def test_fingerprints_tell_settings_apart():
    assert fingerprint(SETTINGS) == fingerprint(dict(reversed(SETTINGS.items())))
    assert fingerprint(SETTINGS) != fingerprint(SETTINGS | {"epochs": 4})
