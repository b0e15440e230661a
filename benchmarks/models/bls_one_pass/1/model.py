"""Ablation, beside the steps: all rows of an `execute` as one, by hand; slow children keep it, no row fails alone.

BERT's call in a second thread, the forest's in this one, answers split: what the toolkit would cost if it did no more.
"""

from concurrent.futures import ThreadPoolExecutor

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
        self.second_thread = ThreadPoolExecutor(1)

    def execute(self, requests):
        inputs = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        excerpts = decode_excerpts(np.concatenate([each["excerpt"] for each in inputs]))
        weights = decode_weights(np.concatenate([each["BERT_WEIGHT"] for each in inputs]))
        bert = self.second_thread.submit(self.ask_bert, excerpts, weights > 0) if weights.any() else None
        forest = self.ask_forest(excerpts, weights < 1)
        scores = combine(weights, bert.result() if bert else forest, forest)[:, None]
        ends = np.cumsum([len(each["BERT_WEIGHT"]) for each in inputs])[:-1]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", part)]) for part in np.split(scores, ends)]

    def ask_bert(self, excerpts, mask):
        input_ids, attention_mask = pad(
            self.tokens.encode([e for e, chosen in zip(excerpts, mask, strict=True) if chosen])
        )
        return scattered(mask, call("bert-large", {"INPUT__0": input_ids, "INPUT__1": attention_mask}, "OUTPUT__0"))

    def ask_forest(self, excerpts, mask):
        if not mask.any():
            return np.full(len(mask), np.nan, np.float32)
        features = self.features.features([e for e, chosen in zip(excerpts, mask, strict=True) if chosen])
        return scattered(mask, call("cuml", {"input__0": features}, "output__0"))


def call(model, inputs, output):
    request = pb_utils.InferenceRequest(
        model_name=model,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        requested_output_names=[output],
    )
    response = request.exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return response.output_tensors()[0].as_numpy()[:, 0]


def scattered(mask, answers):
    scores = np.full(len(mask), np.nan, np.float32)
    scores[mask] = answers
    return scores
