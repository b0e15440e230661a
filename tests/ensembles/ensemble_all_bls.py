"""The graph of the ensemble `ensemble_all`, written as calls that can be changed."""

from collections.abc import Mapping
from typing import Any

from dualpath import bls


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = bls.ModelConfig(args)
        self.preprocess = bls.Child(
            "preprocess",
            ("BERT_IDS", "BERT_AM", "TREE_FEATS"),
            forward_parameters="*",
        )
        self.bert_large = bls.Child("bert-large", "OUTPUT__0", forward_parameters="*")
        self.cuml = bls.Child("cuml", "output__0", forward_parameters="*")
        self.postprocess = bls.Child("postprocess", "OUTPUT0", forward_parameters="*")
        self.pipeline = bls.Pipeline(self.graph, config, merge_requests=False)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        return self.pipeline.execute(requests)

    def finalize(self) -> None:
        self.pipeline.close()

    async def graph(self, request: bls.Request) -> Mapping[str, Any]:
        excerpt = request.inputs["excerpt"]
        bert_weight = request.inputs["BERT_WEIGHT"]

        preprocess = await self.preprocess.call({"INPUT0": excerpt})
        bert_input_ids = preprocess["BERT_IDS"]
        bert_attention_masks = preprocess["BERT_AM"]
        tree_feats = preprocess["TREE_FEATS"]

        # A condition goes here: put an `if` around whatever a request does not need.
        # Its tensors are NumPy arrays.
        bert_large_score, cuml_score = await bls.together(
            self.bert_large.call(
                {
                    "INPUT__0": bert_input_ids,
                    "INPUT__1": bert_attention_masks,
                }
            ),
            self.cuml.call({"input__0": tree_feats}),
        )
        score = await self.postprocess.call(
            {
                "BERT_WEIGHT_INPUT": bert_weight,
                "BERT_LARGE_SCORE": bert_large_score,
                "CUML_SCORE": cuml_score,
            }
        )
        return {"SCORE": score}
