"""The two models' scores to the weighted average."""

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import InvalidInput, decode_weights


class TritonPythonModel:
    def initialize(self, args):
        pass  # nothing to load

    def execute(self, requests):
        return bls.answer_each(requests, self.postprocess, caller_errors=(InvalidInput,))

    def postprocess(self, inputs):
        weights = decode_weights(inputs["BERT_WEIGHT_INPUT"])
        score = combine(weights, inputs["BERT_LARGE_SCORE"][:, 0], inputs["CUML_SCORE"][:, 0])
        return {"OUTPUT0": score[:, None]}
