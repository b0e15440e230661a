"""Training from the file to the published version: what is written, what is refused, and going on when interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import treelite
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_bert import save_encoder, served_repository, write_corpus

from dualpath.errors import UserError
from dualpath.readability.reference import Reference
from dualpath.repository import releases
from dualpath.repository.facts import Facts
from dualpath.training import train
from dualpath.training.bert import finetune
from dualpath.training.bert import training as bert
from dualpath.training.bert.settings import Settings
from dualpath.training.blend import rmse
from dualpath.training.card import Card
from dualpath.training.corpus import read_corpus
from dualpath.training.train import TrainingJob

SETTINGS = Settings(soup=2, epochs=2, batch_rows=4, learning_rate=1e-3, mixed_precision=False)


def small_job(folder: Path) -> TrainingJob:
    """Everything small: 40 excerpts, two layers of 16."""
    return TrainingJob(
        data=write_corpus(folder / "train.csv"),
        models=["cuml", "bert-large"],
        model_repository=served_repository(folder),
        n_folds=2,
        encoder=str(save_encoder(folder / "encoder")),
        settings=SETTINGS,
        keep=train.FINE_TUNED,
        engine="sklearn",
        run_dir=folder / "run",
    )


@pytest.fixture
def job(tmp_path) -> TrainingJob:
    return small_job(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[TrainingJob, train.Trained]:
    """A job that was trained without an interruption, for tests that only read."""
    job = small_job(tmp_path_factory.mktemp("done"))
    return job, train.train(job, silent)


def silent(*_: object) -> None:
    pass


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_models_are_published_as_a_new_version_that_scores_in_process(done):
    job, trained = done
    bert_folder, forest_folder = (job.model_repository / model / "2" for model in ("bert-large", "cuml"))
    assert {path.name for path in bert_folder.iterdir()} >= {"model.pt", "tokenizer.json", "version.json", "blend.png"}
    assert {path.name for path in forest_folder.iterdir()} >= {"checkpoint.tl", "word_lists.json", "model-card.md"}
    assert Card.of(Facts.of(bert_folder)) == Card.of(Facts.of(forest_folder)) == trained.card
    assert (job.model_repository / "bert-large" / "1" / "old").read_text() == "served"
    treelite.Model.deserialize(forest_folder / "checkpoint.tl")
    torch.jit.load(str(bert_folder / "model.pt"))
    assert trained.card.blend.rmse[-1] == pytest.approx(trained.card.bert_rmse)
    assert trained.card.blend.rmse[0] == pytest.approx(trained.card.forest_rmse)
    assert trained.card.bert_rmse < trained.card.target_deviation


def test_equal_jobs_give_equal_figures(job, done):
    one, other = train.train(job, silent), done[1]
    assert one.card.bert_rmse == other.card.bert_rmse
    assert one.card.forest_rmse == other.card.forest_rmse
    assert one.card.blend == other.card.blend


@pytest.mark.parametrize("part", ["forest", "fold-1.2", "fold-2.1", "final.2"])
def test_an_interruption_changes_nothing_served_and_the_same_job_goes_on(job, done, part):
    before = snapshot(job.model_repository)
    n_steps = {}

    def interrupt(name: str, n_done: int, n_all: int, note: str) -> None:
        if name == part and n_done:
            raise KeyboardInterrupt

    def count(name: str, n_done: int, n_all: int, note: str) -> None:
        n_steps[name] = n_steps.get(name, 0) + (note != bert.DONE_BEFORE)

    with pytest.raises(KeyboardInterrupt):
        train.train(job, interrupt)
    assert snapshot(job.model_repository) == before
    trained = train.train(job, count)
    earlier = {"fold-1.2": ["fold-1.1"], "fold-2.1": ["fold-1"], "final.2": ["fold-1", "fold-2", "final.1"]}
    assert not any(n_steps.get(name) for name in earlier.get(part, []))
    assert trained.card.bert_rmse == done[1].card.bert_rmse
    assert trained.card.blend == done[1].card.blend


@pytest.mark.parametrize("kept", [train.FINE_TUNED, train.FROZEN])
def test_the_better_of_fine_tuned_and_frozen_is_published_and_named(job, monkeypatch, kept):
    measure = bert.BertTraining.cross_validate

    def swapped(training, folds):  # with so few rows the frozen encoder always wins
        return [replace(it, scores=it.frozen, frozen=it.scores) for it in measure(training, folds)]

    if kept == train.FINE_TUNED:
        monkeypatch.setattr(bert.BertTraining, "cross_validate", swapped)
    trained = train.train(replace(job, keep=train.BETTER), silent)
    card = trained.card
    assert card.kept == kept
    assert (card.tuned_rmse < card.head_rmse) is (kept == train.FINE_TUNED)
    assert card.bert_rmse == min(card.head_rmse, card.tuned_rmse) == pytest.approx(card.blend.rmse[-1])
    assert f"bert-large: published {kept}, RMSE {card.bert_rmse:.3f}" in trained.notes[0]
    assert ("frozen, with a linear layer on top." in card.page()) is (kept == train.FROZEN)
    corpus = read_corpus(job.data)
    error = rmse(Reference(job.model_repository).bert(corpus.excerpts), corpus.targets)
    assert error < card.target_deviation


def test_a_version_that_is_worse_than_the_one_before_is_published_with_a_warning(job, tmp_path):
    first = train.train(replace(job, models=["bert-large"]), silent)
    assert not any("warning" in note for note in first.notes)  # what was served before cannot be scored
    worse = replace(SETTINGS, learning_rate=0.3, head_learning_rate=0.3, soup=1)
    again = replace(job, models=["bert-large"], settings=worse, run_dir=tmp_path / "again")
    second = train.train(again, silent)
    assert second.card.bert_rmse > first.card.bert_rmse
    assert (
        f"version 2 has {first.card.bert_rmse:.3f} on the same rows, out of fold. `dualpath reload --to 2`"
        in second.notes[1]
    )


def test_other_rows_are_scored_by_the_version_before(job, tmp_path):
    train.train(job, silent)
    other = read_corpus(write_corpus(tmp_path / "other.csv", n_rows=24))  # it was fitted on these and more
    before = rmse(Reference(job.model_repository).forest(other.excerpts), other.targets)
    trained = train.train(replace(job, models=["cuml"], data=tmp_path / "other.csv"), silent)
    assert before < trained.card.forest_rmse
    [note] = trained.notes
    assert note.startswith("warning: cuml: the new version has RMSE")
    assert f"version 2 has {before:.3f} on the same rows, which flatters it if it was fitted on them" in note


def test_a_traced_model_that_scores_something_else_is_not_published(job, monkeypatch):
    before = snapshot(job.model_repository)

    def wrong(regressor, path):
        raise RuntimeError("traced regressor: expected the eager model's scores, got 1.0e+00 apart.")

    monkeypatch.setattr(bert, "export_regressor", wrong)
    with pytest.raises(RuntimeError, match="apart"):
        train.train(replace(job, models=["bert-large"]), silent)
    assert snapshot(job.model_repository) == before


def test_no_row_is_scored_by_a_model_that_was_fitted_or_stopped_on_it(job, monkeypatch):
    seen = []

    class Spy(finetune.FineTuner):
        def fit(self, rows, targets, validation, *rest):
            used = [*rows, *(validation[0] if validation else ())]
            seen.append({row.tobytes() for row in used})
            return super().fit(rows, targets, validation, *rest)

        def score(self, rows, exact=True):
            if exact:
                assert not seen[-1] & {row.tobytes() for row in rows}
            return super().score(rows, exact)

    monkeypatch.setattr(finetune, "FineTuner", Spy)
    train.train(replace(job, models=["bert-large"]), silent)
    assert len(seen) == 3 * SETTINGS.soup
    assert len(seen[-1]) == 40


def test_an_encoder_that_reads_too_few_tokens_is_refused(job, tmp_path):
    short = save_encoder(tmp_path / "short", max_position_embeddings=128)
    with pytest.raises(UserError, match=r"expected 512 positions, got 128\."):
        train.train(replace(job, encoder=str(short)), silent)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"--encoder \./nowhere: expected a folder in Hugging Face's layout, got none\."),
        ("{empty}", r"expected an encoder's weights \(\*\.safetensors\), got none\."),
        ("{bare}", r"expected the config\.json of a BERT model, got: .*No such file"),
    ],
)
def test_an_encoder_that_is_not_there_is_named(job, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (save_encoder(tmp_path / "bare") / "config.json").unlink()
    before = snapshot(job.model_repository)
    with pytest.raises(UserError, match=message):
        train.train(replace(job, encoder=name.format(empty=tmp_path / "empty", bare=tmp_path / "bare")), silent)
    assert snapshot(job.model_repository) == before


@pytest.mark.parametrize("error", [OSError("no route to the hub"), LocalEntryNotFoundError("no copy, no network")])
def test_a_hub_that_cannot_be_reached_is_one_sentence(job, monkeypatch, error):
    def fail(name, **_):
        assert name == "bert-large-uncased"
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=rf"hub, got: {error} Without network, name a folder that holds the model\."):
        train.train(replace(job, models=["bert-large"], encoder="bert-large-uncased"), silent)


def test_scores_that_are_no_numbers_end_the_training_and_are_not_kept(job, monkeypatch):
    before = snapshot(job.model_repository)
    monkeypatch.setattr(
        finetune.FineTuner, "score", lambda self, rows, exact=True: np.full(len(rows), np.nan, np.float32)
    )
    with pytest.raises(RuntimeError, match=r"fold-1: expected finite scores, got others\. Try a lower --learning-rate"):
        train.train(replace(job, models=["bert-large"]), silent)
    assert snapshot(job.model_repository) == before
    assert not (job.run_dir / "fold-1.npz").exists()


def test_nothing_is_locked_while_a_training_runs(job):
    """A server that starts meanwhile must not wait for hours."""

    def start(name: str, n_done: int, n_all: int, note: str) -> None:
        if name == "final":
            assert not list(job.model_repository.parent.glob(".publishing-*"))
            assert not list(job.model_repository.glob("*/.unfinished-*"))
            with releases.locked(job.model_repository):
                pass

    train.train(job, start)


def test_the_architecture_of_bert_large_trains_exports_and_scores(job, tmp_path):
    """bert-large's layers and heads, a sixteenth as wide; its widths are in test_bench_untrained.py."""
    shape = {"num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 64, "intermediate_size": 256}
    encoder = save_encoder(tmp_path / "large", **shape)
    data = write_corpus(tmp_path / "few.csv", n_rows=12)
    settings = replace(SETTINGS, epochs=1, soup=1, accumulate=2, gradient_checkpointing=True)
    job = replace(job, data=data, models=["bert-large"], encoder=str(encoder), settings=settings)
    trained = train.train(job, silent)
    assert np.isfinite(trained.card.bert_rmse)
    model = torch.jit.load(str(job.model_repository / "bert-large" / "2" / "model.pt"))
    ids = torch.ones(2, 16, dtype=torch.int64)
    assert model(ids, ids).shape == (2, 1)


def test_the_run_keeps_a_log_that_can_be_plotted(done):
    job, _ = done
    header, *lines = (job.run_dir / "log.csv").read_text().splitlines()
    columns = header.split(",")
    parts = {line.split(",")[0] for line in lines}
    assert parts == {f"{part}.{member}" for part in ("fold-1", "fold-2", "final") for member in (1, 2)}
    assert all(float(line.split(",")[columns.index("train_rmse")]) > 0 for line in lines)


def test_the_runs_settings_say_what_was_asked(done):
    job, _ = done
    settings = json.loads((job.run_dir / "settings.json").read_text())
    assert settings["epochs"] == 2
    with pytest.raises(UserError, match="expected a run with epochs 3, got one with 2"):
        train.train(replace(job, settings=replace(SETTINGS, epochs=3)), silent)
