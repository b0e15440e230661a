"""The architecture of bert-large with random weights: real widths, and for the tests' sake few layers."""

import pytest
import torch
from transformers import BertConfig

from dualpath.errors import UserError
from dualpath.readability.contract import MAX_TOKENS
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.training import build as training
from dualpath.training import forest
from dualpath.training.bert import export
from dualpath.training.bert.export import set_precision
from dualpath.training.bert.regressor import BERT_LARGE, untrained_bert_large


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_traced_bert_large_equals_eager_at_other_shapes(precision, tmp_path):
    regressor = untrained_bert_large(n_layers=1)
    set_precision(regressor.encoder, precision)
    export.export_regressor(regressor, tmp_path / "model.pt")
    loaded = torch.jit.load(str(tmp_path / "model.pt"))
    for rows, tokens in ((1, 48), (3, 96), (1, MAX_TOKENS)):
        inputs = export.example(regressor, rows, tokens)
        with torch.inference_mode():
            scores = loaded(*inputs)
            assert scores.shape == (rows, 1)
            assert torch.equal(scores, regressor(*inputs))
            assert float(scores.abs().max()) < 10  # the size that a score has


def test_bert_large_has_its_340_million_parameters():
    config = BertConfig(**BERT_LARGE)
    wide, inner = config.hidden_size, config.intermediate_size
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2) * wide
    layer = 4 * (wide + 1) * wide + (wide + 1) * inner + (inner + 1) * wide + 4 * wide
    n_parameters = embeddings + config.num_hidden_layers * layer
    assert n_parameters == pytest.approx(335e6, rel=0.01)  # and a pooler of a million, which no score needs

    two_layers = untrained_bert_large(n_layers=2).encoder
    assert sum(weights.numel() for weights in two_layers.parameters()) == embeddings + 2 * layer
    assert two_layers.config.vocab_size == 30522


def test_untrained_weights_are_the_same_each_time():
    one, two = (untrained_bert_large(n_layers=1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty model repository, and makers that take no time."""
    for model in ("bert-large", "cuml"):
        (tmp_path / model).mkdir()
    small = untrained_bert_large(n_layers=1)
    monkeypatch.setattr("dualpath.training.bert.regressor.untrained_bert_large", lambda: small)
    monkeypatch.setattr(
        export, "export_regressor", lambda regressor, path: path.write_text(f"{regressor.encoder.dtype}")
    )
    monkeypatch.setattr(forest, "fit_forest", lambda table: None)
    monkeypatch.setattr(forest, "export_forest", lambda fitted, table, path: path.write_text("forest"))
    return tmp_path


def test_build_takes_the_shape_and_says_so_in_the_facts(repository):
    training.build(repository, "bfloat16", encoder_shape="bert-large")
    assert (repository / "bert-large/1/model.pt").read_text() == "torch.bfloat16"
    facts = Facts.of(newest(repository / "bert-large"))
    assert (facts.encoder, facts.precision) == ("bert-large, random weights", "bfloat16")
    again = training.build(repository, "bfloat16", encoder_shape="bert-large")
    assert all(artifact.up_to_date for artifact in again)
    assert not training.build(repository, "float32", encoder_shape="bert-large")[0].up_to_date


def test_build_refuses_an_unknown_shape(repository):
    with pytest.raises(UserError, match="encoder shape: expected minilm or bert-large, got 'huge'"):
        training.build(repository, encoder_shape="huge")
