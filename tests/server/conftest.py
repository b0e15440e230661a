"""One real Triton for the whole session, and ways to ask it."""

from dataclasses import dataclass
from functools import partial

import asking
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from starting import start

from dualpath.readability.contract import TOLERANCES
from dualpath.repository.facts import Facts
from dualpath.repository.folders import newest
from dualpath.serving.client import Scorer, connect


@pytest.fixture(scope="session")
def server(model_repository, tmp_path_factory):
    with start(model_repository, log_path=tmp_path_factory.mktemp("triton") / "triton.log") as it:
        yield it


@pytest.fixture(scope="module")
def client(server):
    """A client of the session's server, or of the module's own."""
    client = connect(server.grpc_url)
    yield client
    client.close()


@pytest.fixture(scope="session")
def tolerance(model_repository):
    """The largest difference that counts as equal, for the precision that is served."""
    return TOLERANCES[Facts.of(newest(model_repository / "bert-large")).precision]


@pytest.fixture(scope="module")
def score(client):
    """score(model, excerpts, weights) -> float32 [rows], in one request."""

    def score(model, excerpts, weights):
        excerpts = [text.encode() if isinstance(text, str) else text for text in excerpts]
        return Scorer(client, model).score(excerpts, np.array(weights, np.float32))

    return score


@dataclass(frozen=True)
class Raw:
    """Any tensors to any model, good or bad."""

    client: grpcclient.InferenceServerClient

    def infer(self, model, **arrays):
        inputs = []
        for name, (array, dtype) in arrays.items():
            tensor = grpcclient.InferInput(name, array.shape, dtype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return self.client.infer(model, inputs)


@pytest.fixture(scope="module")
def raw(client):
    return Raw(client)


@pytest.fixture
def rows_seen(client):
    """rows_seen(model) -> how many rows it has inferred since the server started."""
    return partial(asking.rows_seen, client)
