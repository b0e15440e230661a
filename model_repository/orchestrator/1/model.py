"""The graph of `ensemble_all`, driven imperatively: rows go only where they can change the answer.

excerpt ──┬─ tokens ──── bert-large ──┐
          └─ features ── cuml ────────┴─ combine ── SCORE, ROUTE
"""

import numpy as np

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.engine import text_engine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.on_bert_error = config.choice("on_bert_error", ("fail", "fallback"))
        self.on_bert_late = config.choice("on_bert_late", ("fail", "fallback"))
        self.engine = text_engine(config.gpu, config.path("tokenizer"), config.path("word_lists"))
        self.metrics = bls.Metrics(config.name)
        self.bert = bls.BatchedChild(
            "bert-large",
            "OUTPUT__0",
            lambda rows: dict(zip(("INPUT__0", "INPUT__1"), self.engine.pad(rows), strict=True)),
            in_flight=config.integer("bert_in_flight"),
            chunk_rows=config.integer("bert_chunk_rows"),
            max_rows=config.max_batch_size,
            max_wait_s=config.integer("max_wait_seconds", 60),
            version=config.version,
            metrics=self.metrics,
        )
        self.forest = bls.BatchedChild(
            "cuml",
            "output__0",
            lambda rows: {"input__0": np.stack(rows)},
            in_flight=1,
            chunk_rows=512,
            early_return=False,
            version=config.version,
            metrics=self.metrics,
        )
        self.pipeline = bls.Pipeline(self.score, config, caller_errors=(InvalidInput,), metrics=self.metrics)

    def execute(self, requests):
        return self.pipeline.execute(requests)

    def finalize(self):
        self.pipeline.close()

    async def score(self, request):
        excerpts = decode_excerpts(request.inputs["excerpt"])
        weights = decode_weights(request.inputs["BERT_WEIGHT"])
        may_fail, may_be_late = (s.of(request) == "fallback" for s in (self.on_bert_error, self.on_bert_late))
        needs_bert = weights > 0
        needs_forest = (weights < 1) | may_fail | may_be_late

        ask_bert = bls.route(excerpts, needs_bert, self.ask_bert)
        ask_forest = bls.route(excerpts, needs_forest, self.ask_forest)
        bert_or_not = bls.tolerate(ask_bert, unavailable=may_fail, failed=may_fail, late=may_be_late)
        (bert, missed), forest = await bls.together(bert_or_not, ask_forest)

        routes = np.array(["cuml", "bert+cuml", "bert"], object)[needs_bert.astype(int) + (weights == 1)]
        if missed:  # the forest's scores stand alone
            bert, weights = forest, np.zeros_like(weights)
            routes[needs_bert] = f"cuml (bert {missed})"
            self.metrics.count("fallbacks", int(needs_bert.sum()), child=self.bert.name, reason=missed)
        self.metrics.count_each("rows", "route", routes)
        return {"SCORE": combine(weights, bert, forest)[:, None], "ROUTE": routes[:, None]}

    async def ask_bert(self, excerpts):
        with self.metrics.stage("tokens"):
            tokens = await bls.in_slices(self.engine.tokens, excerpts, self.engine.slice_rows)
        return (await self.bert.rows(tokens))[:, 0]

    async def ask_forest(self, excerpts):
        with self.metrics.stage("features"):
            features = await bls.in_slices(self.engine.features, excerpts, self.engine.slice_rows)
        return (await self.forest.rows(features))[:, 0]
