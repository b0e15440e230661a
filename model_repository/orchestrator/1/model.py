"""The graph of `ensemble_all`, driven imperatively: rows go only where they can change the answer.

excerpt ──┬─ tokens ──── bert-large ──┐
          └─ features ── cuml ────────┴─ combine ── SCORE, ROUTE
"""

from functools import partial

import numpy as np

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.engine import text_engine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.on_bert_error = config.setting("on_bert_error", ("fail", "fallback"))
        self.on_bert_late = config.setting("on_bert_late", ("fail", "fallback"))
        self.engine = text_engine(config.gpu, config.path("tokenizer"), config.path("word_lists"))
        self.metrics = bls.Metrics(config.name)
        self.bert = bls.MergingChild(
            "bert-large",
            "OUTPUT__0",
            lambda rows: dict(zip(("INPUT__0", "INPUT__1"), self.engine.pad(rows), strict=True)),
            in_flight=config.integer("bert_in_flight"),
            chunk_rows=config.integer("bert_chunk_rows"),
            version=config.version,
            metrics=self.metrics,
        )
        self.forest = bls.MergingChild(
            "cuml",
            "output__0",
            lambda rows: {"input__0": np.stack(rows)},
            in_flight=1,
            chunk_rows=512,
            slow=False,
            version=config.version,
            metrics=self.metrics,
        )
        self.loop = bls.Loop(self.score, faults=(InvalidInput,), metrics=self.metrics)

    def execute(self, requests):
        return self.loop.serve(requests)

    def finalize(self):
        self.loop.close()

    async def score(self, request):
        excerpts = decode_excerpts(request.inputs["excerpt"])
        weights = decode_weights(request.inputs["BERT_WEIGHT"])
        may_fail, may_be_late = (s.of(request) == "fallback" for s in (self.on_bert_error, self.on_bert_late))
        needs_bert = weights > 0
        needs_forest = (weights < 1) | may_fail | may_be_late

        ask_bert = bls.route(excerpts, needs_bert, partial(self.ask_bert, request))
        ask_forest = bls.route(excerpts, needs_forest, partial(self.ask_forest, request))
        (bert, missed), forest = await bls.together(bls.excuse(ask_bert, failed=may_fail, late=may_be_late), ask_forest)

        routes = np.where(needs_bert, np.where(weights < 1, "bert+cuml", "bert"), "cuml").astype(object)
        if missed:  # the forest's scores stand alone
            bert, weights = forest, np.zeros_like(weights)
            routes[needs_bert] = f"cuml (bert {missed})"
            self.metrics.count("fallbacks", int(needs_bert.sum()), child=self.bert.name, reason=missed)
        self.metrics.count_each("rows", "route", routes)
        return {"SCORE": combine(weights, bert, forest)[:, None], "ROUTE": routes[:, None]}

    async def ask_bert(self, request, excerpts):
        with self.metrics.stage("tokens"):
            tokens = await bls.in_slices(self.engine.tokens, excerpts, self.engine.slice_rows)
        return (await self.bert.rows(request, tokens))[:, 0]

    async def ask_forest(self, request, excerpts):
        with self.metrics.stage("features"):
            features = await bls.in_slices(self.engine.features, excerpts, self.engine.slice_rows)
        return (await self.forest.rows(request, features))[:, 0]
