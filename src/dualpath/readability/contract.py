"""The tensor contract: every model's names, dtypes and shapes, stated once.

The config.pbtxt files say the same to Triton; a test holds them against this page.
"""

from dataclasses import dataclass

from dualpath.inference.precision import TOLERANCES as TOLERANCES

MAX_BATCH_SIZE = 512

MAX_TOKENS = 512
"""BERT's position embeddings end here; longer excerpts are cut."""

BUCKETS: tuple[int, ...] = (*range(32, 320, 16), *range(320, MAX_TOKENS + 1, 32))
"""Padded lengths, in tokens. BERT's time grows with every token of padding: steps of 16 where most excerpts lie cost
3 % on CLEAR, steps of 64 cost 13 %, while equal lengths of different requests still meet."""

N_FEATURES = 207

CHUNK_ROWS = 2
"""Rows that BERT takes at a time: the stand-in backend's `STAND_IN_CHUNK_ROWS`, and the reference's."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model, without its batch dimension. `dtype` is Triton's name, such as "TYPE_FP32"."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class ModelContract:
    """A model of the repository: what it takes, what it gives, and the files that `dualpath build` makes for it.

    Attributes:
        artifact: the file that Triton loads.
        companion: the file beside it that turns excerpts into its inputs.
    """

    name: str
    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    artifact: str | None = None
    companion: str | None = None


EXCERPT = Tensor("excerpt", "TYPE_STRING", (-1,))
WEIGHT = Tensor("BERT_WEIGHT", "TYPE_FP32", (-1,))
SCORE = Tensor("SCORE", "TYPE_FP32", (1,))
ROUTE = Tensor("ROUTE", "TYPE_STRING", (1,))
"""Which models made the score: `bert+cuml`, `cuml`, `bert`, `cuml (bert unavailable)`, `cuml (bert failed)` or
`cuml (bert late)`."""

PREPROCESS = ModelContract(
    "preprocess",
    "python",
    inputs=(Tensor("INPUT0", "TYPE_STRING", (-1,)),),
    outputs=(
        Tensor("BERT_IDS", "TYPE_INT64", (-1,)),
        Tensor("BERT_AM", "TYPE_INT64", (-1,)),
        Tensor("TREE_FEATS", "TYPE_FP32", (N_FEATURES,)),
    ),
)
BERT = ModelContract(
    "bert-large",
    "pytorch",
    inputs=(Tensor("INPUT__0", "TYPE_INT64", (-1,)), Tensor("INPUT__1", "TYPE_INT64", (-1,))),
    outputs=(Tensor("OUTPUT__0", "TYPE_FP32", (1,)),),
    artifact="model.pt",
    companion="tokenizer.json",
)
FOREST = ModelContract(
    "cuml",
    "fil",
    inputs=(Tensor("input__0", "TYPE_FP32", (N_FEATURES,)),),
    outputs=(Tensor("output__0", "TYPE_FP32", (1,)),),
    artifact="checkpoint.tl",
    companion="word_lists.json",
)
POSTPROCESS = ModelContract(
    "postprocess",
    "python",
    inputs=(
        Tensor("BERT_WEIGHT_INPUT", "TYPE_FP32", (-1,)),
        Tensor("BERT_LARGE_SCORE", "TYPE_FP32", (1,)),
        Tensor("CUML_SCORE", "TYPE_FP32", (1,)),
    ),
    outputs=(Tensor("OUTPUT0", "TYPE_FP32", (1,)),),
)
ENSEMBLE = ModelContract("ensemble_all", "ensemble", inputs=(EXCERPT, WEIGHT), outputs=(SCORE,))
ORCHESTRATOR = ModelContract("orchestrator", "python", inputs=(EXCERPT, WEIGHT), outputs=(SCORE, ROUTE))

MODELS = (PREPROCESS, BERT, FOREST, POSTPROCESS, ENSEMBLE, ORCHESTRATOR)
SCORERS = (ENSEMBLE, ORCHESTRATOR)
"""The two styles: the models a client calls."""


def bucket(n_tokens: int) -> int:
    """Return the smallest padded length that holds `n_tokens`: 65 -> 80."""
    return next(length for length in BUCKETS if length >= n_tokens)
