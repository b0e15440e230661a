"""A model for Triton's `openvino` backend."""

import json
import os
import shutil

import numpy as np
import torch
from small_models import WHOLE
from typer.testing import CliRunner

from dualpath import inference
from dualpath.cli import app
from dualpath.inference import conversion, openvino_model
from dualpath.readability.contract import TOLERANCES
from dualpath.readability.reference import BERT_INPUTS
from dualpath.readability.tokens import pad
from dualpath.repository.folders import newest


def test_a_model_for_the_openvino_backend_has_the_names_of_its_config(saved, cache, tmp_path):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    class Longest(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor):
            return (ids * mask).to(torch.float32).sum(1, keepdim=True)

    inputs = {"INPUT__0": WHOLE, "INPUT__1": WHOLE}
    path = conversion.export(saved(Longest()), tmp_path / "bert", inputs, "OUTPUT__0", 512)
    config = text_format.Parse((tmp_path / "bert/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("bert", "openvino", 512)
    compiled = openvino_model.openvino().Core().compile_model(str(path), "CPU")
    arrays = {tensor.name: np.full((2, 3), 2, np.int64) for tensor in config.input}
    assert compiled(arrays)[config.output[0].name].tolist() == [[12.0], [12.0]]


def test_build_writes_bert_for_the_openvino_backend_too(model_repository, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(model_repository, repository, copy_function=os.link, symlinks=True)
    ended = CliRunner().invoke(app, ["build", "--format", "openvino", "--model-repository", str(repository), "--json"])
    assert ended.exit_code == 0, ended.output
    [written] = [each for each in json.loads(ended.stdout) if each["path"].endswith("model.xml")]
    assert written["path"] == str(tmp_path / "repository.openvino/bert-large/1/model.xml")
    assert (tmp_path / "repository.openvino/bert-large/config.pbtxt").is_file()
    ids, mask = pad([np.arange(1_000, 1_020), np.arange(2_000, 2_007)])
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_model.openvino().Core().compile_model(written["path"], "CPU", hints)
    scores = compiled({"INPUT__0": ids, "INPUT__1": mask})["OUTPUT__0"]
    [expected] = inference.load(newest(repository / "bert-large") / "model.pt", BERT_INPUTS, "torch").run([ids, mask])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCES["float32"])
