"""Triton on a GPU, served as `dualpath serve --config-name gpu` and `gpu-models` do, by whichever backends it has."""

from contextlib import contextmanager

import numpy as np
import pytest
from repositories import told_where

from dualpath.compare.bench_servers import GPU_CONFIGS, why_no_gpu
from dualpath.readability.contract import BERT, FOREST, POSTPROCESS, SCORERS
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import Scorer, connect
from dualpath.serving.server import TritonServer
from gpu_reference import EXCERPTS, GPU_TOLERANCES, ON_CPU, WEIGHTS


@pytest.fixture(scope="module", params=GPU_CONFIGS)
def config_name(request, gpu, model_repository):
    if why := why_no_gpu(model_repository, request.param):
        pytest.skip(why)
    return request.param


@contextmanager
def serving(repository, folder, config_name):
    """A function that asks a model for the scores of the samples, with the models of a repository on the GPU."""
    log = folder / "triton.log"
    options = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "config_name": config_name, "log_path": log}
    with TritonServer(repository, **options) as server:
        client = connect(server.grpc_url)
        yield lambda model: Scorer(client, model).score(EXCERPTS, WEIGHTS)
        client.close()


def test_both_scorers_give_the_cpus_scores(model_repository, tmp_path, config_name):
    built = Facts.of(newest(model_repository / BERT.name))
    if built.encoder != ON_CPU["encoder"]:
        pytest.skip(f"the CPU's scores are of {ON_CPU['encoder']}, the models of {built.encoder}")
    atol = GPU_TOLERANCES[built.precision]
    with serving(model_repository, tmp_path, config_name) as scores_of:
        for scorer in SCORERS:
            np.testing.assert_allclose(scores_of(scorer.name), ON_CPU["scores"], rtol=0, atol=atol, err_msg=scorer.name)


def test_tokens_and_features_reach_the_models_where_the_text_is_processed(model_repository, tmp_path, config_name):
    on_gpu = config_name == "gpu"
    with serving(told_where(model_repository, tmp_path, BERT, FOREST), tmp_path, config_name) as scores_of:
        for scorer in SCORERS:
            assert scores_of(scorer.name).tolist() == [on_gpu] * len(EXCERPTS), scorer.name


def test_scores_reach_the_last_step_of_the_ensemble_where_it_runs(model_repository, tmp_path, config_name):
    on_gpu = config_name == "gpu"
    with serving(told_where(model_repository, tmp_path, POSTPROCESS), tmp_path, config_name) as scores_of:
        assert scores_of("ensemble_all").tolist() == [on_gpu] * len(EXCERPTS)
