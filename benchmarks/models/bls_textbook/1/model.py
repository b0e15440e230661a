"""Ablation, step 1: BLS as Triton's documentation shows it. `async def execute` calls all four models and waits."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return await asyncio.gather(*map(self.score, requests))

    async def score(self, request):
        excerpt, weights = (pb_utils.get_input_tensor_by_name(request, name) for name in ("excerpt", "BERT_WEIGHT"))
        weight = weights.as_numpy()
        preprocessed = await call("preprocess", {"INPUT0": excerpt.as_numpy()}, ["BERT_IDS", "BERT_AM", "TREE_FEATS"])
        bert, forest = await asyncio.gather(
            call(
                "bert-large", {"INPUT__0": preprocessed["BERT_IDS"], "INPUT__1": preprocessed["BERT_AM"]}, ["OUTPUT__0"]
            )
            if (weight > 0).any()
            else nothing("OUTPUT__0", weight),
            call("cuml", {"input__0": preprocessed["TREE_FEATS"]}, ["output__0"])
            if (weight < 1).any()
            else nothing("output__0", weight),
        )
        scores = {"BERT_LARGE_SCORE": bert["OUTPUT__0"], "CUML_SCORE": forest["output__0"]}
        blended = await call("postprocess", {"BERT_WEIGHT_INPUT": weight, **scores}, ["OUTPUT0"])
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORE", blended["OUTPUT0"])])


async def call(model, inputs, outputs):
    request = pb_utils.InferenceRequest(
        model_name=model,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        requested_output_names=outputs,
    )
    response = await request.async_exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


async def nothing(output, weight):
    return {output: np.full_like(weight, np.nan)}
