"""The graph of `ensemble_all`, driven imperatively: rows go only where they can change the answer.

excerpt ──┬─ tokens ──── bert-large ──┐
          └─ features ── cuml ────────┴─ combine ── SCORE
"""

import numpy as np

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad

SLICE_ROWS = 8  # preprocessed at a time, in about 4 ms, before other requests get their turn


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))
        self.bert = bls.MergingChild(
            "bert-large",
            "OUTPUT__0",
            lambda rows: dict(zip(("INPUT__0", "INPUT__1"), pad(rows), strict=True)),
            in_flight=config.integer("bert_in_flight"),
            chunk_rows=config.integer("bert_chunk_rows"),
            slow=True,
            version=1,
        )
        self.forest = bls.MergingChild(
            "cuml", "output__0", lambda rows: {"input__0": np.stack(rows)}, in_flight=1, chunk_rows=512, version=1
        )
        self.loop = bls.Loop(self.score, faults=(InvalidInput,))

    def execute(self, requests):
        return self.loop.serve(requests)

    def finalize(self):
        self.loop.close()

    async def score(self, request):
        excerpts = decode_excerpts(request.inputs["excerpt"])
        weights = decode_weights(request.inputs["BERT_WEIGHT"])

        async def ask_bert(chosen):
            tokens = await bls.in_slices(self.tokens.encode, chosen, SLICE_ROWS)
            return (await self.bert.rows(request, tokens))[:, 0]

        async def ask_forest(chosen):
            features = await bls.in_slices(self.features.features, chosen, SLICE_ROWS)
            return (await self.forest.rows(request, features))[:, 0]

        bert, forest = await bls.together(
            bls.route(excerpts, weights > 0, ask_bert),
            bls.route(excerpts, weights < 1, ask_forest),
        )
        return {"SCORE": combine(weights, bert, forest)[:, None]}
