"""Score in process, without a server: the plain reference that everything served is compared with."""

from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath import inference
from dualpath.extras import needs
from dualpath.readability.combine import Scores, combine
from dualpath.readability.contract import BERT, CHUNK_ROWS, FOREST
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad
from dualpath.repository.folders import newest

with needs("models"):
    import treelite


BERT_INPUTS = [inference.Input("int64", (-1, -1))] * 2


class Reference:
    """The two models of a model repository, loaded into this process.

    Args:
        model_repository: holds what `dualpath build` wrote; the newest version of each model counts.
        threads: that BERT computes with. By torch, its scores are bitwise those of a server whose instances have as
            many; by OpenVINO those of any.
        engine: that runs BERT, one of `inference.ENGINES`.
    """

    def __init__(
        self, model_repository: Path, threads: int = 1, chunk_rows: int = CHUNK_ROWS, engine: str = "auto"
    ) -> None:
        bert, forest = (newest(model_repository / model.name) for model in (BERT, FOREST))
        self._chunk_rows = chunk_rows
        self._bert = inference.load(bert / "model.pt", BERT_INPUTS, engine, threads=threads)
        self._tokens = TokenEncoder(bert / "tokenizer.json")
        self._forest = treelite.Model.deserialize(forest / "checkpoint.tl")
        self._features = FeatureCounter(WordLists.load(forest / "word_lists.json"))

    def score(self, excerpts: Sequence[bytes], weights: Scores) -> Scores:
        """Score UTF-8 excerpts: float32 [rows]. BERT and the forest see only the rows whose weight needs them."""
        bert = _where(weights > 0, excerpts, self.bert)
        forest = _where(weights < 1, excerpts, self.forest)
        return combine(weights, bert, forest)

    def bert(self, excerpts: Sequence[bytes]) -> Scores:
        """Score with BERT alone, all rows padded to one length: float32 [rows]."""
        arrays = pad(self._tokens.encode(excerpts))
        starts = range(0, len(excerpts), self._chunk_rows)
        chunks = [[array[start : start + self._chunk_rows] for array in arrays] for start in starts]
        return np.concatenate([self._bert.run(chunk)[0] for chunk in chunks])[:, 0]

    @property
    def engine(self) -> str:
        """What runs BERT, such as "OpenVINO 2026.4.1 in float32"."""
        return self._bert.engine

    def forest(self, excerpts: Sequence[bytes]) -> Scores:
        """Score with the forest alone: float32 [rows]."""
        features = self._features.features(excerpts)
        return np.asarray(treelite.gtil.predict(self._forest, features, nthread=1), np.float32).reshape(-1)


def _where(wanted: npt.NDArray[np.bool_], excerpts: Sequence[bytes], score: Callable[..., Scores]) -> Scores:
    scores = np.full(len(excerpts), np.nan, np.float32)
    if wanted.any():
        scores[wanted] = score(list(compress(excerpts, wanted)))
    return scores
