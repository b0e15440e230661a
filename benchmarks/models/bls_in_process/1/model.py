"""Ablation, step 2: as step 1, but pre- and postprocessing in this process, and only the calls that rows need."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils

from dualpath.bls import ModelConfig
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import decode_excerpts, decode_weights
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad


class TritonPythonModel:
    def initialize(self, args):
        config = ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))

    async def execute(self, requests):
        return await asyncio.gather(*map(self.score, requests))

    async def score(self, request):
        excerpts = decode_excerpts(pb_utils.get_input_tensor_by_name(request, "excerpt").as_numpy())
        weights = decode_weights(pb_utils.get_input_tensor_by_name(request, "BERT_WEIGHT").as_numpy())
        bert, forest = await asyncio.gather(
            self.ask_bert(excerpts, weights > 0), self.ask_forest(excerpts, weights < 1)
        )
        score = combine(weights, bert, forest)
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", score[:, None])])

    async def ask_bert(self, excerpts, mask):
        scores = np.full(len(excerpts), np.nan, np.float32)
        if mask.any():
            input_ids, attention_mask = pad(
                self.tokens.encode([e for e, chosen in zip(excerpts, mask, strict=True) if chosen])
            )
            scores[mask] = await call("bert-large", {"INPUT__0": input_ids, "INPUT__1": attention_mask}, "OUTPUT__0")
        return scores

    async def ask_forest(self, excerpts, mask):
        scores = np.full(len(excerpts), np.nan, np.float32)
        if mask.any():
            features = self.features.features([e for e, chosen in zip(excerpts, mask, strict=True) if chosen])
            scores[mask] = await call("cuml", {"input__0": features}, "output__0")
        return scores


async def call(model, inputs, output):
    request = pb_utils.InferenceRequest(
        model_name=model,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        requested_output_names=[output],
    )
    response = await request.async_exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return response.output_tensors()[0].as_numpy()[:, 0]
