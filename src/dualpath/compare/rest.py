"""What a comparison asks a server about itself, by HTTP."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import tritonclient.grpc as grpcclient
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from dualpath.compare.connection import is_http
from dualpath.errors import UserError
from dualpath.serving.client import connect, open_client

_TIMEOUT_S = 10.0


class RestClient:
    """The calls of `tritonclient.grpc.InferenceServerClient` that a comparison makes, by HTTP.

    They take the same arguments, return the same messages and raise the same exception.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url.rstrip("/"), headers

    def is_server_live(self, client_timeout: float = _TIMEOUT_S) -> bool:
        return self._is_ok("/v2/health/live", client_timeout)

    def is_model_ready(self, model: str, version: str = "", client_timeout: float = _TIMEOUT_S) -> bool:
        return self._is_ok(f"{_path(model, version)}/ready", client_timeout)

    def get_server_metadata(self, as_json: bool, client_timeout: float = _TIMEOUT_S) -> dict[str, Any]:
        return dict(self._get("/v2", client_timeout))

    def get_model_config(
        self, model: str, version: str = "", as_json: bool = False, client_timeout: float = _TIMEOUT_S
    ) -> Any:
        plain = self._get(f"{_path(model, version)}/config", client_timeout)
        config = _message(plain, model_config_pb2.ModelConfig())
        if as_json:
            return {"config": MessageToDict(config, preserving_proto_field_name=True)}
        return service_pb2.ModelConfigResponse(config=config)

    def get_model_repository_index(self, as_json: bool, client_timeout: float = _TIMEOUT_S) -> dict[str, Any]:
        return {"models": self._get("/v2/repository/index", client_timeout, b"{}")}

    def get_inference_statistics(self, client_timeout: float = _TIMEOUT_S) -> Any:
        return _message(self._get("/v2/models/stats", client_timeout), service_pb2.ModelStatisticsResponse())

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _is_ok(self, path: str, timeout_s: float) -> bool:
        try:
            self._read(path, timeout_s)
        except InferenceServerException as error:
            if error.status() is None:  # no answer
                raise
            return False
        return True

    def _get(self, path: str, timeout_s: float, body: bytes | None = None) -> Any:
        text = self._read(path, timeout_s, body)
        try:
            return json.loads(text)
        except ValueError as error:
            raise InferenceServerException(f"{path}: expected JSON, got: {error}") from None

    def _read(self, path: str, timeout_s: float, body: bytes | None = None) -> bytes:
        """Return what the server answers; an exception for an answer that is an error has its status."""
        request = urllib.request.Request(self._url + path, body, dict(self._headers))
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise InferenceServerException(said or str(error), status=str(error.code)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InferenceServerException(str(getattr(error, "reason", error))) from None


def client_of(url: str, headers: Mapping[str, str]) -> RestClient | grpcclient.InferenceServerClient:
    """Return a client for questions about a server; it does not connect yet."""
    return RestClient(url, headers) if is_http(url) else open_client(url, headers)


def live_client(url: str, headers: Mapping[str, str]) -> RestClient | grpcclient.InferenceServerClient:
    """Return a client for questions about a server; UserError if the address is none, or nothing answers there."""
    if not is_http(url):
        return connect(url, headers)
    client, reason = RestClient(url, headers), "a server that is not alive"
    try:
        if client.is_server_live(client_timeout=5):
            return client
    except InferenceServerException as error:
        reason = error.message()
    raise UserError(f"--url: expected a Triton server at {url} (HTTP), got: {reason}. Start one with `dualpath serve`.")


def _path(model: str, version: str) -> str:
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "")


def _message(plain: Any, message: Any) -> Any:
    try:
        return ParseDict(plain, message, ignore_unknown_fields=True)
    except (ParseError, TypeError, AttributeError) as error:
        raise InferenceServerException(f"expected Triton's answer, got another: {error}") from None
