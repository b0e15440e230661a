"""`dualpath env pack`, and `preprocess` on the real Triton in the environment that it packed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from starting import start

import processes
from dualpath.readability.features import FeatureCounter, WordLists
from dualpath.readability.tokens import TokenEncoder, pad
from dualpath.serving.installation import PYTHON, STUB
from dualpath.serving.packing import SUPPORTED

[OTHER] = {*SUPPORTED} - {PYTHON}
EXCERPTS = [b"The cat sat on the mat.", "Notwithstanding the foregoing, the lessee shall – naïvely – pay.".encode()]


def other_python():
    """Return an interpreter of the other supported version, with a shared library, or None if there is none."""
    homes = (Path.home() / ".pyenv" / "versions", Path.home() / ".local" / "share" / "uv" / "python")
    installed = (str(path) for home in homes for path in home.glob(f"*/bin/python{OTHER}"))
    library = f"{{sysconfig.get_config_var('LIBDIR')}}/libpython{OTHER}.so.1.0"
    for python in filter(None, (shutil.which(f"python{OTHER}"), *installed)):
        asked = subprocess.run([python, "-c", f'import sysconfig, venv; open(f"{library}")'], capture_output=True)
        if asked.returncode == 0:
            return python
    return None


@pytest.fixture
def repository(model_repository, tmp_path):
    """A model repository with `preprocess` alone, whose word lists and vocabulary stay where they are."""
    repository = tmp_path / "model_repository"
    shutil.copytree(model_repository / "preprocess", repository / "preprocess")
    config = repository / "preprocess" / "config.pbtxt"
    config.write_text(config.read_text().replace('"../', f'"{model_repository}/'))
    return repository


def pack(repository, *options):
    command = [Path(sys.executable).parent / "dualpath", "env", "pack", "--server", "embedded", *options]
    done = subprocess.run([*command, "--model-repository", repository], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def loaded(pid, library):
    """Return the files with this in their name that a process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if library in line}


def check_that_preprocess_runs_in_its_environment(repository, model_repository, tmp_path, python):
    with start(repository) as server:
        [stub] = processes.stubs(server.pid, "preprocess")
        [numpy] = loaded(stub, "/_multiarray_umath.")
        assert numpy.startswith("/tmp/python_env_")  # where Triton unpacks
        assert f"/lib/python{python}/site-packages/numpy/" in numpy
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            excerpts = grpcclient.InferInput("INPUT0", [len(EXCERPTS), 1], "BYTES")
            excerpts.set_data_from_numpy(np.array(EXCERPTS, np.object_)[:, None])
            answer = client.infer("preprocess", [excerpts])
    tokens = pad(TokenEncoder(model_repository / "bert-large" / "1" / "tokenizer.json").encode(EXCERPTS))
    features = FeatureCounter(WordLists.load(model_repository / "cuml" / "1" / "word_lists.json")).features(EXCERPTS)
    for name, expected in (*zip(("BERT_IDS", "BERT_AM"), tokens, strict=True), ("TREE_FEATS", features)):
        np.testing.assert_array_equal(answer.as_numpy(name), expected)


def test_preprocess_runs_in_a_packed_environment(repository, model_repository, tmp_path):
    pack(repository)
    assert not (repository / "preprocess" / STUB).exists()
    check_that_preprocess_runs_in_its_environment(repository, model_repository, tmp_path, PYTHON)


def test_preprocess_runs_in_another_python_than_the_servers(repository, model_repository, tmp_path):
    if (python := other_python()) is None:
        pytest.skip(f"no Python {OTHER} with a shared library on this machine")
    pack(repository, "--python", python, "--output", str(tmp_path / "shared.tar.gz"))
    check_that_preprocess_runs_in_its_environment(repository, model_repository, tmp_path, OTHER)
