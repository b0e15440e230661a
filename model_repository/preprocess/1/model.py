"""Excerpts to token ids, attention mask and features, on the device that the instance runs on."""

from dualpath import bls
from dualpath.readability.engine import text_engine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.engine = text_engine(config.gpu, config.path("tokenizer"), config.path("word_lists"))

    def execute(self, requests):
        return bls.answer_each(requests, self.preprocess, caller_errors=(InvalidInput,))

    def preprocess(self, inputs):
        excerpts = decode_excerpts(inputs["INPUT0"])
        input_ids, attention_mask = self.engine.pad(self.engine.tokens(excerpts))
        return {"BERT_IDS": input_ids, "BERT_AM": attention_mask, "TREE_FEATS": self.engine.features(excerpts)}
