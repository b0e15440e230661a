"""Stand-in for Triton's C++ `fil` backend: tree models on the CPU, by Treelite's own inference.

Like the C++ one it takes `input__0` FP32 [n_features] and gives `output__0` FP32, and concatenates the requests of one
`execute`. Unlike it: no GPU, Treelite checkpoints and regressors only; other parameters are refused by name.
"""

import numpy as np

from dualpath import bls
from dualpath.extras import needs

with needs("models"):
    import treelite


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        why = "the stand-in for the fil backend"
        config.refuse_gpu("The stand-in for the fil backend runs on the CPU; use a server with the C++ backend.")
        config.refuse_parameters_except("model_type", "output_class", "is_classifier", why=why)
        model_type = config.parameters.get("model_type", "xgboost")  # the C++ backend's default
        if model_type != "treelite_checkpoint":
            raise bls.ConfigError(
                f'{config.name}: parameter "model_type": expected "treelite_checkpoint", got {model_type!r}. '
                "Convert the model, or use a server with the C++ backend."
            )
        for parameter in ("output_class", "is_classifier"):  # the second is its name since release 25.09
            if config.boolean(parameter, False):
                raise bls.ConfigError(
                    f'{config.name}: parameter "{parameter}": expected "false", got "true". Serve a regressor.'
                )
        for tensors, name in ((config.inputs, "input__0"), (config.outputs, "output__0")):
            if [(tensor["name"], tensor["data_type"]) for tensor in tensors] != [(name, "TYPE_FP32")]:
                got = ", ".join(f"{tensor['name']} {tensor['data_type']}" for tensor in tensors)
                raise bls.ConfigError(f"{config.name}: expected one tensor, {name} TYPE_FP32, got {got}. Change it.")
        [tensor] = config.inputs
        self.model = treelite.Model.deserialize(config.artifact("checkpoint.tl"))
        n_features = self.model.num_feature
        if [int(size) for size in tensor["dims"]] != [n_features]:
            raise bls.ConfigError(
                f"{config.name}.{tensor['name']}: expected dims [ {n_features} ], the checkpoint's features, got "
                f"{tensor['dims']}. Change them."
            )

        if self.predict({"input__0": np.zeros((1, n_features), np.float32)})["output__0"].size != 1:
            raise bls.ConfigError(
                f"{config.name}: expected a regressor with one target, got another model. Use the C++ backend."
            )

    def execute(self, requests):
        return bls.answer_merged(requests, self.predict)

    def predict(self, inputs):
        # One thread: a row costs less than waking a second one.
        scores = treelite.gtil.predict(self.model, inputs["input__0"], nthread=1)
        return {"output__0": np.asarray(scores, np.float32).reshape(-1, 1)}
