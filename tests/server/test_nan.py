"""A model whose answer is NaN spoils only the rows that use it: the short-cuts at weight 0 and 1 are exact."""

import shutil

import numpy as np
import pytest
import torch
from starting import start

from dualpath.readability.contract import SCORERS
from dualpath.repository.facts import FACTS_FILES
from dualpath.serving.client import Scorer, connect
from made_up_releases import one_tree

MODELS = [model.name for model in SCORERS]

# Each model fails on one of the two texts, so that one server shows both.
SHORT, LONG = "Two words.", "word " * 50
BERT_OF_SHORT, FOREST_OF_LONG = np.float32(0.3), np.float32(0.7)


class NanForLong(torch.nn.Module):
    """BERT's place: NaN from 20 tokens."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        is_long = attention_mask.sum(1, keepdim=True) >= 20
        return torch.where(is_long, torch.tensor(float("nan")), torch.tensor(0.3))


def nan_for_short():
    """The forest's place: NaN below 20 words."""
    builder = one_tree()
    builder.start_node(0)
    builder.numerical_test(
        feature_id=0, threshold=20, default_left=True, opname="<", left_child_key=1, right_child_key=2
    )
    builder.end_node()
    for node, value in ((1, np.nan), (2, FOREST_OF_LONG)):
        builder.start_node(node)
        builder.leaf(float(value))
        builder.end_node()
    builder.end_tree()
    return builder.commit()


@pytest.fixture(scope="module")
def nan_score(model_repository, tmp_path_factory):
    """nan_score(model, excerpts, weights) -> float32 [rows], from a server whose models give NaN."""
    root = tmp_path_factory.mktemp("nan")
    repository = root / "model_repository"
    # Without the record, since these files are not those that it was made for.
    leave_out = shutil.ignore_patterns("model.pt", "checkpoint.tl", *FACTS_FILES, "__pycache__")
    shutil.copytree(model_repository, repository, ignore=leave_out)
    torch.jit.script(NanForLong()).save(repository / "bert-large" / "1" / "model.pt")
    nan_for_short().serialize(repository / "cuml" / "1" / "checkpoint.tl")
    with start(repository) as server:
        client = connect(server.grpc_url)

        def score(model, excerpts, weights):
            return Scorer(client, model).score([text.encode() for text in excerpts], np.array(weights, np.float32))

        yield score
        client.close()


@pytest.mark.parametrize("model", MODELS)
def test_weight_0_gives_the_forests_score_exactly(nan_score, model):
    assert nan_score(model, [LONG], [0]) == FOREST_OF_LONG


@pytest.mark.parametrize("model", MODELS)
def test_weight_1_gives_berts_score_exactly(nan_score, model):
    assert nan_score(model, [SHORT], [1]) == BERT_OF_SHORT


@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_uses_the_failing_model_is_nan(nan_score, model):
    assert np.isnan([nan_score(model, [text], [weight]) for text in (SHORT, LONG) for weight in (0.5, 1e-6)]).all()
    assert np.isnan(nan_score(model, [LONG], [1]))
    assert np.isnan(nan_score(model, [SHORT], [0]))


@pytest.mark.parametrize("model", MODELS)
def test_rows_of_one_request_do_not_spoil_each_other(nan_score, model):
    scores = nan_score(model, [LONG, SHORT, LONG, SHORT, LONG, SHORT], [0, 1, 0.5, 0.5, 1, 0])
    np.testing.assert_array_equal(scores, [FOREST_OF_LONG, BERT_OF_SHORT, *[np.nan] * 4])
