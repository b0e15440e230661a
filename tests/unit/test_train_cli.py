"""`dualpath train` as a command: what it prints and refuses, and that it may be killed at any moment."""

import dataclasses
import importlib
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import typer
from tiny_bert import save_encoder, served_repository, write_corpus

from dualpath import cli
from dualpath.repository.facts import Facts
from dualpath.training import train
from dualpath.training.bert.settings import Settings
from dualpath.training.card import Card

TINY = shlex.split(
    "--folds 2 --soup 2 --epochs 2 --batch-rows 4 --learning-rate 1e-3 --no-mixed-precision --keep fine-tuned"
)

MOMENTS = {
    "embedding": ("dualpath.training.bert.batches", "tensors", 1, "SIGKILL"),
    "first fold": ("dualpath.training.bert.finetune", "FineTuner._step", 7, "SIGKILL"),
    "writing a checkpoint": ("dualpath.training.runs", "os.replace", 2, "SIGKILL"),
    "second fold": ("dualpath.training.bert.finetune", "FineTuner._step", 7, "SIGINT"),
    "final fit": ("dualpath.training.bert.training", "BertTraining.fit", 0, "SIGTERM"),
    "exporting": ("dualpath.training.bert.export", "check", 1, "SIGKILL"),
    "publishing": ("dualpath.repository.publishing", "os.rename", 1, "SIGKILL"),
}
"""In the order of a run, so that each command goes on from the one before."""


@pytest.fixture
def repository(tmp_path) -> Path:
    return served_repository(tmp_path)


@pytest.fixture
def dualpath(monkeypatch, capfd, tmp_path, repository):
    """dualpath(*arguments) -> exit code, stdout, stderr; in a folder with train.csv and an encoder."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "train.csv")
    save_encoder(tmp_path / "encoder")
    capfd.readouterr()  # transformers' progress bar

    def dualpath(*arguments):
        monkeypatch.setattr(sys, "argv", ["dualpath", "train", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capfd.readouterr()

    return dualpath


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_prints_the_errors_and_where_the_version_is(dualpath, repository):
    code, out, err = dualpath("all", "--data", "train.csv", "--encoder", "encoder", *TINY)
    assert code == 0, err
    card = Card.of(Facts.of(repository / "cuml/2"))
    for found in (card.bert_rmse, card.head_rmse, card.forest_rmse, card.blend.best_rmse):
        assert f"{found:.3f}" in out
    assert "Version 2: model_repository/cuml/2 and model_repository/bert-large/2." in out
    assert f"bert-large: published fine-tuned, RMSE {card.tuned_rmse:.3f}; frozen has {card.head_rmse:.3f}." in out
    [run] = Path("runs").iterdir()
    assert run.name.startswith("encoder-")
    assert "fold-2: " in err
    assert err.count(" out of fold") == 3


def test_json_is_the_card_and_what_was_written(dualpath, repository):
    code, out, _ = dualpath("forest", "--data", "train.csv", "--folds", 2, "--json")
    assert code == 0
    said = json.loads(out)
    assert said["version"] == 2
    assert said["files"] == {"cuml": ["checkpoint.tl", "model-card.md", "version.json", "word_lists.json"]}
    assert said["card"] == json.loads(json.dumps(Card.of(Facts.of(repository / "cuml/2")).as_json()))


@pytest.mark.parametrize("command", ["bert", "forest", "all"])
def test_rows_that_cannot_be_used_are_named_and_nothing_is_published(dualpath, repository, command):
    lines = Path("train.csv").read_text().splitlines()
    lines[3] = '3,,,"",1.0,0.5'
    lines[5] = '5,,,"Some words.",,0.5'
    lines[7] = '7,,,"Other words.",easy,0.5'
    lines[9] = lines[8]
    Path("bad.csv").write_text("\n".join(lines) + "\n")
    before = snapshot(repository)
    code, out, err = dualpath(command, "--data", "bad.csv")
    assert (code, out) == (2, "")
    assert [line.split(": ")[0].strip() for line in err.splitlines()[1:]] == ["line 4", "line 6", "line 8", "line 10"]
    for said in ("with at least one word, got ''", "got ''", "as target, got 'easy'", "a duplicate of line 9"):
        assert said in err
    assert snapshot(repository) == before
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "folds: expected 2 or more, got 1."),
        (["--folds", "21"], "expected excerpts of at least 21 sources, one for each fold, got 40 rows of 20."),
        (["--model-repository", "none"], "none: expected a model repository with bert-large, got none in it."),
        (["--data", "none.csv"], "none.csv: expected a file to read, got: No such file"),
        (["--encoder", "./none"], "--encoder ./none: expected a folder in Hugging Face's layout, got none."),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(dualpath, repository, arguments, message):
    before = snapshot(repository)
    code, out, err = dualpath("bert", "--data", "train.csv", "--encoder", "encoder", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert snapshot(repository) == before


def test_too_few_sources_to_hold_some_out_are_refused(dualpath, tmp_path):
    write_corpus(tmp_path / "few.csv", n_rows=4)  # two sources: beside each fold one, to fit on or to hold out
    code, out, err = dualpath("bert", "--data", "few.csv", "--encoder", "encoder", *TINY)
    assert (code, out) == (2, "")
    assert "bert: expected excerpts of two sources or more beside each fold, got 2 in all." in err


@pytest.mark.parametrize(
    ("command", "package"), [("forest", "treelite"), ("bert", "torch"), ("bert", "transformers"), ("all", "matplotlib")]
)
def test_a_missing_package_names_the_extra_before_anything_is_trained(dualpath, monkeypatch, command, package):
    version = metadata.version

    def without(name):
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained"))
    code, _, err = dualpath(command, "--data", "train.csv")
    assert code == 2
    assert f"package {package}: expected it to be installed, got none. Run `pip install 'dualpath[train]'`." in err


def test_a_check_that_fails_is_a_sentence_and_exit_code_1(dualpath, monkeypatch):
    def fail(*_):
        raise RuntimeError("forest: expected Treelite to predict what sklearn does, got 1.0e-03 apart.")

    monkeypatch.setattr(train, "train", fail)
    code, _, err = dualpath("forest", "--data", "train.csv")
    assert (code, err) == (1, "dualpath: forest: expected Treelite to predict what sklearn does, got 1.0e-03 apart.\n")


@pytest.mark.parametrize("command", ["bert", "all"])
def test_the_options_defaults_are_those_of_settings(command):
    parameters = {p.name: p for p in typer.main.get_command(cli.app).commands["train"].commands[command].params}
    assert parameters["no_mixed_precision"].default is (not Settings.mixed_precision)
    for field in dataclasses.fields(Settings):
        if field.name != "mixed_precision":
            assert parameters[field.name].default == field.default, field.name


@pytest.mark.parametrize("command", ["bert", "forest", "all"])
def test_help_shows_every_option_in_full_at_80_columns(command):
    code = f"from dualpath.cli import main; import sys; sys.argv = ['dualpath', 'train', '{command}', '--help']; main()"
    environment = {**os.environ, "COLUMNS": "80"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert "…" not in shown
    for parameter in typer.main.get_command(cli.app).commands["train"].commands[command].params:
        assert all(f" {option} " in shown for option in parameter.opts)


def killed_at(moment: tuple[str, str, int, str] | None, arguments: list[str], said: Path) -> None:
    """Run a command that gets a signal at the call after the first so many of a function."""
    torch.set_num_threads(1)  # other numbers of threads round otherwise
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    if moment:
        module, name, n_calls, signal_name = moment
        *owner, attribute = name.split(".")
        owner = getattr(importlib.import_module(module), *owner) if owner else importlib.import_module(module)
        function, calls = getattr(owner, attribute), iter(range(n_calls))

        def killed(*arguments, **options):
            if next(calls, None) is None:
                os.kill(os.getpid(), getattr(signal, signal_name))
            return function(*arguments, **options)

        setattr(owner, attribute, killed)
    sys.argv = ["dualpath", *arguments]
    cli.main()


def test_a_command_that_is_killed_at_any_moment_leaves_what_is_served_and_goes_on(dualpath, repository, tmp_path):
    whole = tmp_path / "whole"
    for model in ("bert-large", "cuml"):
        (whole / model).mkdir(parents=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["dualpath.training.train", "dualpath.training.bert.training", "dualpath.cli"])

    def run(moment: tuple[str, str, int, str] | None, to: Path = repository, run_dir: str = "run") -> tuple[int, str]:
        said = tmp_path / "said"
        said.unlink(missing_ok=True)
        where = ["--model-repository", str(to), "--run-dir", str(tmp_path / run_dir)]
        files = ["--data", str(tmp_path / "train.csv"), "--encoder", str(tmp_path / "encoder")]
        process = processes.Process(target=killed_at, args=(moment, ["train", "all", *files, *TINY, *where], said))
        process.start()
        process.join()
        return process.exitcode, said.read_text()

    before = snapshot(repository)
    for name, moment in MOMENTS.items():
        code, said = run(moment)
        if moment[-1] == "SIGINT":
            assert code == 130, said
            assert "dualpath: interrupted; nothing served has changed" in said
        else:
            assert code == -getattr(signal, moment[-1]), (name, said)
        if name != "publishing":
            assert snapshot(repository) == before, name
    # Killed between the two models: one has its version, whole, and the other none.
    assert {path.name for path in (repository / "cuml/2").iterdir()} >= {
        "checkpoint.tl",
        "word_lists.json",
        "version.json",
    }
    assert not (repository / "bert-large/2").exists()
    code, said = run(None)
    assert code == 0, said
    assert said.count("done before") == 2
    assert run(None, whole, "whole-run")[0] == 0
    resumed, uninterrupted = (Card.of(Facts.of(folder)) for folder in (repository / "cuml/3", whole / "cuml/1"))
    assert resumed.blend == uninterrupted.blend
    assert resumed.head_rmse == uninterrupted.head_rmse
    one, other = (
        torch.jit.load(folder / "bert-large" / n / "model.pt") for folder, n in ((repository, "3"), (whole, "1"))
    )
    ids = torch.randint(30_000, (2, 64))
    assert torch.equal(one(ids, ids.clamp(max=1)), other(ids, ids.clamp(max=1)))
    assert log_without_times(tmp_path / "run") == log_without_times(tmp_path / "whole-run")
    assert {name: data for name, data in snapshot(repository).items() if "/1/" in name} == before
    assert not list(tmp_path.glob(".publishing-*"))


def log_without_times(run: Path) -> set[str]:
    return {line.rpartition(",")[0] for line in (run / "log.csv").read_text().splitlines()}
