"""The pipeline behind LitServe, which hands each request to the next worker process that is free."""

import os
from pathlib import Path

import litserve
import numpy as np

from dualpath.readability.reference import Reference


class Readability(litserve.LitAPI):
    def setup(self, device):
        self.reference = Reference(Path(os.environ["MODEL_REPOSITORY"]), int(os.environ["THREADS"]))

    def decode_request(self, request):
        return request["excerpt"].encode(), request["weight"]

    def predict(self, asked):
        excerpt, weight = asked
        return float(self.reference.score([excerpt], np.array([weight], np.float32))[0])

    def encode_response(self, score):
        return score


if __name__ == "__main__":
    server = litserve.LitServer(
        Readability(api_path="/score"), accelerator="cpu", workers_per_device=int(os.environ["PROCESSES"])
    )
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
