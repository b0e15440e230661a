"""Ablation, step 2: pre- and postprocessing in this process, row by row routing; `execute` waits for the children."""

from functools import partial

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad


class TritonPythonModel:
    answers_later = False

    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))
        self.bert = bls.Child("bert-large", ("OUTPUT__0",))
        self.forest = bls.Child("cuml", ("output__0",))
        self.loop = bls.Loop(self.score, faults=(InvalidInput,), n_threads=32)

    def execute(self, requests):
        return self.loop.serve(requests)

    def finalize(self):
        self.loop.close()

    async def score(self, request):
        if self.answers_later:
            request.answer_later()
        excerpts = decode_excerpts(request.inputs["excerpt"])
        weights = decode_weights(request.inputs["BERT_WEIGHT"])
        bert, forest = await bls.together(
            bls.route(excerpts, weights > 0, partial(self.ask_bert, request)),
            bls.route(excerpts, weights < 1, partial(self.ask_forest, request)),
        )
        return {"SCORE": combine(weights, bert, forest)[:, None]}

    async def ask_bert(self, request, excerpts):
        input_ids, attention_mask = pad(self.tokens.encode(excerpts))
        outputs = await self.bert.call({"INPUT__0": input_ids, "INPUT__1": attention_mask}, request.trace)
        return outputs["OUTPUT__0"][:, 0]

    async def ask_forest(self, request, excerpts):
        outputs = await self.forest.call({"input__0": self.features.features(excerpts)}, request.trace)
        return outputs["output__0"][:, 0]
