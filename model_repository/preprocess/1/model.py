"""Excerpts to token ids, attention mask and features."""

from dualpath import bls
from dualpath.readability.excerpts import InvalidInput, decode_excerpts
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))

    def execute(self, requests):
        return bls.answer_each(requests, self.preprocess, faults=(InvalidInput,))

    def preprocess(self, inputs):
        excerpts = decode_excerpts(inputs["INPUT0"])
        input_ids, attention_mask = pad(self.tokens.encode(excerpts))
        return {"BERT_IDS": input_ids, "BERT_AM": attention_mask, "TREE_FEATS": self.features.features(excerpts)}
