"""Stand-in for Triton's C++ `fil` backend: tree models by Treelite on the CPU, by nvForest or cuML on a GPU.

Like the C++ one it takes `input__0` FP32 [n_features] and gives `output__0` FP32, and concatenates the requests of one
`execute`. Unlike it: Treelite checkpoints and regressors only; other parameters are refused by name. On a GPU without
nvForest and cuML it computes on the CPU, and says so in the log.
"""

import numpy as np

from dualpath import bls
from dualpath.bls.triton import pb_utils
from dualpath.extras import needs

with needs("models"):
    import treelite


class TritonPythonModel:
    def initialize(self, args):
        config = bls.ModelConfig(args)
        why = "the stand-in for the fil backend"
        config.refuse_parameters_except(
            "model_type", "output_class", "is_classifier", "FORCE_CPU_ONLY_INPUT_TENSORS", why=why
        )
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
        checkpoint = config.artifact("checkpoint.tl")
        self.model = treelite.Model.deserialize(checkpoint)
        n_features = self.model.num_feature
        if [int(size) for size in tensor["dims"]] != [n_features]:
            raise bls.ConfigError(
                f"{config.name}.{tensor['name']}: expected dims [ {n_features} ], the checkpoint's features, got "
                f"{tensor['dims']}. Change them."
            )
        self.on_gpu = None if config.gpu is None else self.load_on_gpu(config, checkpoint)
        if self.predict({"input__0": np.zeros((1, n_features), np.float32)})["output__0"].size != 1:
            raise bls.ConfigError(
                f"{config.name}: expected a regressor with one target, got another model. Use the C++ backend."
            )

    @staticmethod
    def load_on_gpu(config, checkpoint):
        from dualpath.inference.forest import load_on_gpu

        found = load_on_gpu(checkpoint, config.gpu)
        if found is None:
            pb_utils.Logger.log_warn(
                f"{config.name}: expected nvForest or cuML for KIND_GPU, got neither: the forest runs on the CPU. "
                "Run `pip install 'dualpath[gpu]'`."
            )
            return None
        predict, library = found
        pb_utils.Logger.log_info(f"{config.name}: served by {library} on GPU {config.gpu}.")
        return predict

    def execute(self, requests):
        return bls.answer_merged(requests, self.predict)

    def predict(self, inputs):
        rows = inputs["input__0"]
        if self.on_gpu:
            return {"output__0": self.on_gpu(rows).astype(np.float32).reshape(-1, 1)}
        if not isinstance(rows, np.ndarray):
            rows = rows.get()  # from CuPy
        # One thread: a row costs less than waking a second one.
        scores = treelite.gtil.predict(self.model, rows, nthread=1)
        return {"output__0": np.asarray(scores, np.float32).reshape(-1, 1)}
