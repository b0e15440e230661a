"""The graph of `ensemble_all`, driven imperatively: rows go only where they can change the answer.

excerpt ──┬─ tokens ──── bert-large ──┐
          └─ features ── cuml ────────┴─ combine ── SCORE
"""

import asyncio
from itertools import compress

import numpy as np

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad

NO_SCORES = np.empty(0, np.float32)


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))
        self.bert = bls.Child("bert-large", outputs=("OUTPUT__0",), version=1)
        self.forest = bls.Child("cuml", outputs=("output__0",), version=1)

    async def execute(self, requests):
        return await bls.answer_each_async(requests, self.score, faults=(InvalidInput,))

    async def score(self, inputs, trace):
        excerpts = decode_excerpts(inputs["excerpt"])
        weights = decode_weights(inputs["BERT_WEIGHT"])
        bert, forest = await asyncio.gather(
            self.ask(self.call_bert, weights > 0, excerpts, trace),
            self.ask(self.call_forest, weights < 1, excerpts, trace),
        )
        return {"SCORE": combine(weights, bert, forest)[:, None]}

    async def ask(self, call, wanted, excerpts, trace):
        """Score the wanted rows, the others are NaN; no row, no call."""
        chosen = list(compress(excerpts, wanted))
        return bls.scatter(await call(chosen, trace) if chosen else NO_SCORES, wanted)

    async def call_bert(self, excerpts, trace):
        input_ids, attention_mask = pad(self.tokens.encode(excerpts))
        outputs = await self.bert.call({"INPUT__0": input_ids, "INPUT__1": attention_mask}, trace)
        return outputs["OUTPUT__0"][:, 0]

    async def call_forest(self, excerpts, trace):
        outputs = await self.forest.call({"input__0": self.features.features(excerpts)}, trace)
        return outputs["output__0"][:, 0]
