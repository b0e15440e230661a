"""Ablation, step 3: as step 2 by the toolkit: `execute` returns at once and every request is answered by its sender."""

from dualpath import bls
from dualpath.readability.combine import combine
from dualpath.readability.excerpts import InvalidInput, decode_excerpts, decode_weights
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        self.tokens = TokenEncoder(config.path("tokenizer"))
        self.features = FeatureCounter(WordLists.load(config.path("word_lists")))
        self.bert = bls.Child("bert-large", "OUTPUT__0", early_return=True)
        self.forest = bls.Child("cuml", "output__0", early_return=True)
        self.pipeline = bls.Pipeline(
            self.score, config, caller_errors=(InvalidInput,), merge_requests=False, n_threads=32
        )

    def execute(self, requests):
        return self.pipeline.execute(requests)

    def finalize(self):
        self.pipeline.close()

    async def score(self, request):
        excerpts = decode_excerpts(request.inputs["excerpt"])
        weights = decode_weights(request.inputs["BERT_WEIGHT"])
        bert, forest = await bls.together(
            bls.route(excerpts, weights > 0, self.ask_bert), bls.route(excerpts, weights < 1, self.ask_forest)
        )
        return {"SCORE": combine(weights, bert, forest)[:, None]}

    async def ask_bert(self, excerpts):
        input_ids, attention_mask = pad(self.tokens.encode(excerpts))
        return (await self.bert.call({"INPUT__0": input_ids, "INPUT__1": attention_mask}))[:, 0]

    async def ask_forest(self, excerpts):
        return (await self.forest.call({"input__0": self.features.features(excerpts)}))[:, 0]
