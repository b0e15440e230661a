"""Copies of the model repository in which some models' code is replaced; the artifacts are linked, not copied."""

import shutil
from pathlib import Path

from dualpath.compare.bench_servers import with_artifacts
from dualpath.readability.contract import BERT
from dualpath.repository.folders import newest

HERE = Path(__file__).parent


def told_where(model_repository, folder, *models):
    """A copy of the repository in which these models only tell where their inputs lie."""
    return _with_code(model_repository, folder, HERE / "where" / "model.py", models)


def on_torch_cpu(model_repository, folder):
    """A copy in which BERT is computed by the stand-in's code for a GPU, with torch's CPU in the GPU's place."""
    return _with_code(model_repository, folder, HERE / "on_torch_cpu" / "model.py", [BERT])


def _with_code(model_repository, folder, code, models):
    repository = with_artifacts(model_repository, model_repository, folder)
    for model in models:
        shutil.copyfile(code, newest(repository / model.name) / "model.py")
        for config in (repository / model.name).rglob("*.pbtxt"):
            text = config.read_text().replace(f'backend: "{model.backend}"', 'backend: "python"')
            config.write_text(text)
    return repository


def with_chunk_rows(model_repository, folder, n_rows):
    """A copy in which the orchestrator sends BERT so many rows at a time."""
    repository = with_artifacts(model_repository, model_repository, folder)
    for config in (repository / "orchestrator").rglob("*.pbtxt"):
        before, rest = config.read_text().split('"bert_chunk_rows" value { string_value: "')
        config.write_text(f'{before}"bert_chunk_rows" value {{ string_value: "{n_rows}{rest[rest.index(chr(34)) :]}')
    return repository
