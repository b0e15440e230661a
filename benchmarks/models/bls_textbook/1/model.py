"""Ablation, step 1: BLS as tutorials write it. All four models are called, and `execute` waits for them."""

import asyncio

import numpy as np

from dualpath import bls


class TritonPythonModel:
    def initialize(self, args):
        self.preprocess = bls.Child("preprocess", ("BERT_IDS", "BERT_AM", "TREE_FEATS"))
        self.bert = bls.Child("bert-large", ("OUTPUT__0",))
        self.forest = bls.Child("cuml", ("output__0",))
        self.postprocess = bls.Child("postprocess", ("OUTPUT0",))
        self.loop = bls.Loop(self.score, n_threads=32)

    def execute(self, requests):
        return self.loop.serve(requests)

    def finalize(self):
        self.loop.close()

    async def score(self, request):
        weights = request.inputs["BERT_WEIGHT"]
        tokens = await self.preprocess.call({"INPUT0": request.inputs["excerpt"]}, request.trace)
        bert, forest = await asyncio.gather(
            self.bert.call({"INPUT__0": tokens["BERT_IDS"], "INPUT__1": tokens["BERT_AM"]}, request.trace)
            if (weights > 0).any()
            else nothing("OUTPUT__0", weights),
            self.forest.call({"input__0": tokens["TREE_FEATS"]}, request.trace)
            if (weights < 1).any()
            else nothing("output__0", weights),
        )
        scores = {"BERT_LARGE_SCORE": bert["OUTPUT__0"], "CUML_SCORE": forest["output__0"]}
        blended = await self.postprocess.call({"BERT_WEIGHT_INPUT": weights, **scores}, request.trace)
        return {"SCORE": blended["OUTPUT0"]}


async def nothing(output, weights):
    return {output: np.full_like(weights, np.nan)}
