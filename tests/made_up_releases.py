"""Model repositories whose answers tell their release, and whether two were mixed.

Release k's tokenizer makes 10 + k of every word, and its BERT gives 100 k for that and MIXED for any other; its word
lists begin with the word `wk`, which TEXT has k times, and its forest gives 10 k for that share and MIXED for another.
"""

import json
import shutil
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from treelite.model_builder import Metadata, ModelBuilder, PostProcessorFunc, TreeAnnotation

from dualpath.readability.contract import N_FEATURES
from dualpath.repository import publishing
from dualpath.repository.facts import Facts
from paths import REPOSITORY

MIXED = -1000.0
N_RELEASES = 12
WORDS = [word for k in range(1, N_RELEASES + 1) for word in [f"w{k}"] * k]
TEXT = " ".join(WORDS).encode()
SHARE_FEATURE = 7
"""The first listed word's share of an excerpt's words."""

WEIGHTS = np.array([0.5, 0, 1, 0.5], np.float32)


def scores_of(bert, forest=None):
    """What BERT of one release and the forest of another, or the same, answer to TEXT."""
    forest = bert if forest is None else forest
    return tuple((WEIGHTS * 100 * bert + (1 - WEIGHTS) * 10 * forest).tolist())


class Bert(torch.nn.Module):
    """BERT's place: some milliseconds, so that requests are under way while the releases change."""

    def __init__(self, k: int):
        super().__init__()
        self.token, self.score = 10 + k, 100.0 * k
        self.work = torch.nn.Parameter(torch.eye(256), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        work = self.work
        for _ in range(10):
            work = work @ self.work
        scores = torch.where(input_ids[:, :1] == self.token, self.score, -1000.0)
        return scores * work[0, 0]


def write_bert(folder, k):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 10 + k}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.jit.script(Bert(k)).save(folder / "model.pt")


def one_tree():
    """A builder of a forest of one tree, whose score is the leaf's value."""
    builder = ModelBuilder(
        threshold_type="float32",
        leaf_output_type="float32",
        metadata=Metadata(
            num_feature=N_FEATURES,
            task_type="kRegressor",
            average_tree_output=False,
            num_target=1,
            num_class=[1],
            leaf_vector_shape=(1, 1),
        ),
        tree_annotation=TreeAnnotation(num_tree=1, target_id=[0], class_id=[0]),
        postprocessor=PostProcessorFunc(name="identity"),
        base_scores=[0.0],
    )
    builder.start_tree()
    return builder


def write_forest(folder, k):
    lists = {"most": [f"w{k}", *(f"m{i}" for i in range(99))], "least": [f"l{i}" for i in range(100)]}
    (folder / "word_lists.json").write_text(json.dumps(lists))
    builder = one_tree()
    for node, threshold, left, right in ((0, k - 0.5, 1, 2), (2, k + 0.5, 3, 4)):
        builder.start_node(node)
        builder.numerical_test(
            feature_id=SHARE_FEATURE,
            threshold=threshold / len(WORDS),
            default_left=True,
            opname="<",
            left_child_key=left,
            right_child_key=right,
        )
        builder.end_node()
        if node == 0:
            builder.start_node(1)
            builder.leaf(MIXED)
            builder.end_node()
    for node, value in ((3, 10.0 * k), (4, MIXED)):
        builder.start_node(node)
        builder.leaf(value)
        builder.end_node()
    builder.end_tree()
    builder.commit().serialize(folder / "checkpoint.tl")


WRITE = {"bert-large": write_bert, "cuml": write_forest}


def publish(repository, k, names=("bert-large", "cuml")):
    def write(name, folder):
        WRITE[name](folder, k)
        return Facts()

    return publishing.publish(repository, {name: partial(write, name) for name in names})


def made_up(repository, engine="torch"):
    """Write a model repository with release 1, and return its folder.

    With torch no second engine is tried at each load of BERT, which takes seconds.
    """
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__", "[2-9]*"))
    for name in WRITE:
        shutil.rmtree(repository / name / "1", ignore_errors=True)
    config = repository / "bert-large" / "config.pbtxt"
    text = config.read_text()
    for found, wanted in (("count: 3", "count: 1"), ('"auto"', f'"{engine}"')):  # one process: each imports torch
        assert found in text
        text = text.replace(found, wanted)
    config.write_text(text)
    publish(repository, 1)
    return repository
