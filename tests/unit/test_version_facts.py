"""What a version says of itself reaches whoever needs it: a comparison judges by the precision that training wrote."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from served_models import Model, lengths, served
from tiny_bert import save_encoder, served_repository, write_corpus

from dualpath.compare import compare
from dualpath.training.bert.settings import Settings
from dualpath.training.train import TrainingJob, train


def off_by_a_hundredth(inputs):
    return {"SCORE": lengths(inputs)["SCORE"] + np.float32(0.01)}


@pytest.mark.parametrize(("precision", "tolerance", "failed"), [("bfloat16", 2e-2, False), ("float32", 2e-5, True)])
def test_a_comparison_takes_the_tolerance_of_the_precision_that_bert_was_trained_for(
    tmp_path, precision, tolerance, failed
):
    repository = served_repository(tmp_path)
    for name in ("ensemble_all", "orchestrator"):
        (repository / name / "1").mkdir(parents=True)
    job = TrainingJob(
        data=write_corpus(tmp_path / "train.csv"),
        models=["bert-large"],
        model_repository=repository,
        n_folds=2,
        encoder=str(save_encoder(tmp_path / "encoder")),
        precision=precision,
        settings=Settings(soup=1, epochs=1, batch_rows=20, mixed_precision=False),
        run_dir=tmp_path / "run",
    )
    version = train(job, lambda *_: None).version
    models = {"ensemble_all": Model(), "orchestrator": Model(off_by_a_hundredth), "bert-large": Model(version=version)}
    with served(models) as (url, _):

        @contextmanager
        def start(model_repository, config_name=None):
            yield SimpleNamespace(grpc_url=url, metrics_url=None, pid=None, wait=lambda timeout_s: None)

        result = compare(model_repository=repository, concurrency=[1], batch=[1], duration_s=0.1, start=start)
    assert ([found.atol for found in result.parity], result.failed) == ([tolerance], failed)
