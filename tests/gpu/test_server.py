"""Triton with its C++ backends on a GPU, served as `dualpath serve --config-name gpu` does."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dualpath.readability.contract import BERT, FOREST, POSTPROCESS, SCORERS
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import Scorer, connect
from dualpath.serving.server import TritonServer
from gpu_reference import EXCERPTS, ON_CPU, WEIGHTS

GPU_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest difference to float32 on the CPU, by BERT's precision: other kernels, and a coarser encoder. Guessed from
what precision and padding do on the CPU; never measured on a GPU."""

pytestmark = pytest.mark.usefixtures("cpp_backends")


@contextmanager
def serving(repository, folder):
    """A function that asks a model for the scores of the samples, with the models of a repository on the GPU."""
    log = folder / "triton.log"
    options = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "config_name": "gpu", "log_path": log}
    with TritonServer(repository, **options) as server:
        client = connect(server.grpc_url)
        yield lambda model: Scorer(client, model).score(EXCERPTS, WEIGHTS)
        client.close()


def told_where(model_repository, folder, *models):
    """A copy of the repository in which models only tell where their inputs lie."""
    repository = folder / "model_repository"
    shutil.copytree(model_repository, repository)
    for model in models:
        shutil.copy(Path(__file__).parent / "where" / "model.py", repository / model.name / "1" / "model.py")
        for config in (repository / model.name).rglob("*.pbtxt"):
            text = config.read_text().replace(f'backend: "{model.backend}"', 'backend: "python"')
            takes_gpu = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
            config.write_text(text if takes_gpu in text else f"{text}{takes_gpu}\n")
    return repository


def test_both_scorers_give_the_cpus_scores(model_repository, tmp_path):
    built = Facts.of(newest(model_repository / BERT.name))
    if built.encoder != ON_CPU["encoder"]:
        pytest.skip(f"the CPU's scores are of {ON_CPU['encoder']}, the models of {built.encoder}")
    atol = GPU_TOLERANCES[built.precision]
    with serving(model_repository, tmp_path) as scores_of:
        for scorer in SCORERS:
            np.testing.assert_allclose(scores_of(scorer.name), ON_CPU["scores"], rtol=0, atol=atol, err_msg=scorer.name)


def test_tokens_and_features_reach_the_models_on_the_gpu(model_repository, tmp_path):
    with serving(told_where(model_repository, tmp_path, BERT, FOREST), tmp_path) as scores_of:
        for scorer in SCORERS:
            assert scores_of(scorer.name).tolist() == [1] * len(EXCERPTS), scorer.name


def test_scores_reach_the_last_step_of_the_ensemble_on_the_gpu(model_repository, tmp_path):
    with serving(told_where(model_repository, tmp_path, POSTPROCESS), tmp_path) as scores_of:
        assert scores_of("ensemble_all").tolist() == [1] * len(EXCERPTS)
