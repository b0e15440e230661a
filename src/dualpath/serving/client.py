"""Score through a running Triton server; try a request again that it could not take: to score is safe to repeat."""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.readability.combine import Scores
from dualpath.readability.contract import EXCERPT, SCORE, WEIGHT
from dualpath.serving import access

with needs("cli"):
    import tritonclient.grpc as grpcclient
    from tritonclient.utils import InferenceServerException

TLS = "grpcs://"
"""How an address of a gRPC port with TLS begins. Authorities beside the system's: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH."""

T = TypeVar("T")

RETRIED = ("StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.RESOURCE_EXHAUSTED")
"""What a server says while it restarts, while a model is loaded, and when it has too much to do."""
FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 8.0

_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that restarts is back within seconds; gRPC's own back-off reaches two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def open_client(
    url: str, headers: Mapping[str, str] | None = None, certificate: Path | None = None
) -> grpcclient.InferenceServerClient:
    """Return a client of a gRPC address, with the server's key if this user has it. It does not connect yet.

    Args:
        url: such as "localhost:8001", or "grpcs://scores.example.org:8001" for TLS.
        certificate: trust the server with this certificate (PEM), by whatever name it is reached.
    """
    address, options, arguments = url.removeprefix(TLS), {}, list(_CHANNEL)
    if certificate is not None:
        options, arguments = {"root_certificates": str(certificate)}, arguments + _named_as(certificate)
    client = grpcclient.InferenceServerClient(address, ssl=url.startswith(TLS), channel_args=arguments, **options)
    key = access.key_for(address)
    all_headers = {**({} if key is None else {access.GRPC_HEADER: key}), **(headers or {})}

    def add_headers(request: Any) -> None:
        request.headers = {**(request.headers or {}), **all_headers}

    if all_headers:
        client.register_plugin(add_headers)
    return client


def _named_as(certificate: Path) -> list[tuple[str, Any]]:
    """Return the channel's options by which a server passes for one of the names in its certificate."""
    # The standard library reads a certificate from a file by this function alone.
    facts: Any = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    names = [name for kind, name in facts.get("subjectAltName", ()) if kind == "DNS"]
    names += [value for part in facts.get("subject", ()) for key, value in part if key == "commonName"]
    return [("grpc.ssl_target_name_override", name.replace("*", "any")) for name in names[:1]]


def connect(url: str, headers: Mapping[str, str] | None = None) -> grpcclient.InferenceServerClient:
    """Return a client of the server at a gRPC address, which must be alive.

    Raises:
        UserError: the address is none, or nothing answers there.
    """
    if not url or "://" in url.removeprefix(TLS):
        raise UserError(
            f"--url: expected HOST:PORT of a Triton server's gRPC, got {url!r}. Write it like localhost:8001."
        )
    client = open_client(url, headers)
    try:
        alive = client.is_server_live(client_timeout=5)
    except InferenceServerException as error:
        client.close()
        said = str(error.message()).removesuffix(": OK")  # of OpenSSL, after what it refuses
        reason = said.rsplit(": ", 1)[-1].strip(" ].")  # the last of several: each layer adds its own
        raise UserError(
            f"--url: expected a Triton server at {url} (gRPC), got: {reason}. Start one with `dualpath serve`."
        ) from None
    if not alive:
        raise UserError(f"--url: expected a live server at {url}, got one that is not alive. Look at its log.")
    return client


class Scorer:
    """One of the two models, called by gRPC.

    Args:
        client: what `connect` gave.
        model: "ensemble_all" or "orchestrator".
    """

    def __init__(self, client: grpcclient.InferenceServerClient, model: str) -> None:
        self._client = client
        self._model = model

    def score(self, excerpts: Sequence[bytes], weights: Scores, **options: Any) -> Scores:
        """Score UTF-8 excerpts in one request: float32 [rows].

        Args:
            excerpts: at most 512.
            weights: BERT_WEIGHT, float32 [rows].
            options: passed on to `infer`, such as `client_timeout`.
        Raises:
            InferenceServerException: the server refused or failed.
        """
        answer = self._client.infer(self._model, scored_inputs(excerpts, weights), **options)
        scores: Scores = answer.as_numpy(SCORE.name)[:, 0]
        return scores


def scored_inputs(excerpts: Sequence[bytes], weights: Scores) -> list[grpcclient.InferInput]:
    """Return the inputs of a request to score UTF-8 excerpts by BERT_WEIGHT, float32 [rows]."""
    inputs = [
        grpcclient.InferInput(EXCERPT.name, [len(excerpts), 1], "BYTES"),
        grpcclient.InferInput(WEIGHT.name, [len(excerpts), 1], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.array(excerpts, np.object_)[:, None])
    inputs[1].set_data_from_numpy(weights.astype(np.float32)[:, None])
    return inputs


def retrying(
    call: Callable[[], T],
    for_s: float,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what the call returns, tried again after longer and longer delays while the server cannot take it.

    Args:
        call: safe to repeat.
        for_s: how long to go on; 0 tries once.
        report: gets a line before the first delay.
    Raises:
        InferenceServerException: another failure, or the last one after `for_s`.
    """
    deadline, delay_s = clock() + for_s, FIRST_DELAY_S
    while True:
        try:
            return call()
        except InferenceServerException as error:
            if error.status() not in RETRIED or clock() + delay_s > deadline:
                raise
            if delay_s == FIRST_DELAY_S:
                reason = " ".join(str(error.message()).split()).rstrip(".")
                report(f"{reason}. Trying again for {for_s:g} s.")
        sleep(delay_s)
        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
