"""Requests that no client means to send: random ones, and good ones that were changed at random places."""

import http.client
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from typing import Any

import grpc
from row import Found, Row, Stage
from served_process import ServedProcess
from tritonclient.grpc import service_pb2

N_REQUESTS = 2500
"""Of each kind."""
N_THREADS = 16
ANSWER_S = 5.0
MOST_GROWTH = 200e6
SEED = 7

PATHS = ("/v2/models/orchestrator/infer", "/v2/models/ensemble_all/infer")
NUMBERS = (0, 1, -1, 513, 2**31, 2**31 - 1, 2**32, 2**62, 2**63 - 1, 4611686018427387905, 2**63, 2**64, 0.5, 1e308)
N_INT64 = 10
"""Of these numbers, the first, fit in 64 bits."""
WORDS = ("", "FP64", "BYTES", "\0", "x" * 3000)
LISTS: tuple[Any, ...] = ([], [[]], [1, 1], [0, 1], [2147483648, 1])
VALUES: tuple[Any, ...] = (*NUMBERS, *WORDS, *LISTS, None, True, {})

Send = Callable[[str, random.Random], str]
"""Sends one request to an address, and says how it was answered; TimeoutError if it was not."""


def rows() -> Iterator[Row]:
    bound = f"0 crashes, 0 without an answer in {ANSWER_S:g} s, memory within {MOST_GROWTH / 1e6:g} MB"
    for name, at, send in (
        ("JSON over HTTP", "gateway", _json),
        ("binary tensors over HTTP", "gateway", _binary),
        ("gRPC", "gateway-gRPC", _grpc),
        ("raw sockets", "gateway", _raw),
    ):
        yield Row(f"{N_REQUESTS:,} hostile requests: {name}", bound, partial(_attack, at, send))


def _attack(at: str, send: Send, stage: Stage) -> Found:
    served = stage.served
    address = served.at[at].removeprefix("http://")
    stage.expected  # noqa: B018  the first requests make buffers grow
    triton, before, restarts = served.triton, served.memory(), served.restarts()

    def answered(number: int) -> tuple[str, float]:
        began = time.monotonic()
        try:
            answer = send(address, random.Random(SEED * N_REQUESTS + number))
        except TimeoutError:
            answer = "unanswered"
        except OSError as error:
            answer = f"{error.strerror}"
        return answer, time.monotonic() - began

    growths = [(0.0, "")]
    with ThreadPoolExecutor(N_THREADS) as pool:
        sent = [pool.submit(answered, number) for number in range(N_REQUESTS)]
        try:
            while wait(sent, 0.5).not_done:
                growths.append(_growth(served, before))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    growth, who = max([*growths, _growth(served, before)])
    answers, seconds = zip(*(it.result() for it in sent), strict=True)
    crashed = served.triton != triton or served.restarts() != restarts
    n_unanswered = answers.count("unanswered")
    said = ", ".join(f"{n:,} {answer}" for answer, n in Counter(answers).most_common(6))
    seen = f"{'crashed' if crashed else '0 crashes'}, {n_unanswered} unanswered, slowest {max(seconds):.1f} s, "
    seen += f"memory {growth / 1e6:+.0f} MB at most ({who or 'none grew'}); {said}"
    return Found(seen, not crashed and not n_unanswered and growth <= MOST_GROWTH)


def _growth(served: ServedProcess, before: dict[str, int]) -> tuple[float, str]:
    """Return the most by which a process has grown, and which one."""
    with suppress(OSError, StopIteration, ValueError):  # while it is away it has no processes
        return max((float(now - before.get(name, 0)), name) for name, now in served.memory().items())
    return 0.0, ""


def _request(rng: random.Random) -> dict[str, Any]:
    """Return a good request's JSON, with its tensors as data."""
    n = rng.choice((1, 1, 2, 5))
    return {
        "id": f"{rng.random()}",
        "inputs": [
            {"name": "excerpt", "datatype": "BYTES", "shape": [n, 1], "data": ["The cat sat on the mat."] * n},
            {"name": "BERT_WEIGHT", "datatype": "FP32", "shape": [n, 1], "data": [0.0] * n},
        ],
        "outputs": [{"name": "SCORE", "parameters": {"binary_data": False}}],
    }


def _changed(value: Any, rng: random.Random) -> Any:
    """Change a JSON value at a random place."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kept = {name: it for name, it in value.items() if name != key or rng.random() < 0.9}
        return {name: _changed(it, rng) if name == key else it for name, it in kept.items()} | (
            {rng.choice(("data", "parameters", "shape", "name", "x")): rng.choice(VALUES)} if rng.random() < 0.1 else {}
        )
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :], *([value[at]] if rng.random() < 0.1 else [])]
    return rng.choice(VALUES)


def _bent(raw: bytes, rng: random.Random) -> bytes:
    """Change some bytes: overwrite, cut, repeat."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(4):
            case 0 if data:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(20)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(20))
            case _:
                del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def _json(address: str, rng: random.Random) -> str:
    request = _changed(_request(rng), rng)
    body = b"[" * 100_000 if rng.random() < 0.02 else json.dumps(request).encode()
    return _post(address, rng.choice(PATHS), _bent(body, rng) if rng.random() < 0.3 else body, {})


def _binary(address: str, rng: random.Random) -> str:
    request = _request(rng)
    parts = []
    for tensor in request["inputs"]:
        data = tensor.pop("data")
        parts.append(
            b"".join(struct.pack("<I", len(it)) + it.encode() for it in data)
            if isinstance(data[0], str)
            else struct.pack(f"<{len(data)}f", *data)
        )
        tensor["parameters"] = {"binary_data_size": len(parts[-1])}
    if rng.random() < 0.7:
        request = _changed(request, rng)
    head, data = json.dumps(request).encode(), b"".join(parts)
    head = _bent(head, rng) if rng.random() < 0.2 else head
    data = _bent(data, rng) if rng.random() < 0.3 else data
    stated = rng.choice((*NUMBERS, len(data), "1e3", "")) if rng.random() < 0.1 else len(head)
    return _post(address, rng.choice(PATHS), head + data, {"Inference-Header-Content-Length": str(stated)})


def _post(address: str, path: str, body: bytes, headers: dict[str, str]) -> str:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_S)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return f"{answer.status}"
    except (http.client.HTTPException, ConnectionError):
        return "closed"
    finally:
        connection.close()


@cache
def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address)


def _grpc(address: str, rng: random.Random) -> str:
    request = service_pb2.ModelInferRequest(model_name=rng.choice(("orchestrator", "ensemble_all")))
    n = rng.choice((1, 2, 5))
    for name, kind, raw in (
        ("excerpt", "BYTES", (struct.pack("<I", 23) + b"The cat sat on the mat.") * n),
        ("BERT_WEIGHT", "FP32", struct.pack(f"<{n}f", *[0.0] * n)),
    ):
        shape = [n, 1] if rng.random() < 0.6 else [rng.choice(NUMBERS[:N_INT64]) for _ in range(rng.randrange(4))]
        kind = rng.choice(("BYTES", "FP64", "INT8", "", "BF16", "x")) if rng.random() < 0.1 else kind
        request.inputs.add(name=name if rng.random() < 0.95 else "x", datatype=kind, shape=shape)
        if rng.random() < 0.95:
            request.raw_input_contents.append(_bent(raw, rng) if rng.random() < 0.3 else raw)
        else:
            request.inputs[-1].contents.fp32_contents.extend([0.0] * n)
    if rng.random() < 0.2:
        name = rng.choice(("timeout", "priority", "sequence_id", "shared_memory_region", "binary_data_size", "x"))
        request.parameters[name].int64_param = rng.choice(NUMBERS[:N_INT64])
    if rng.random() < 0.1:
        request.inputs[0].parameters["shared_memory_region"].string_param = "x"
        request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 2**40
    raw = request.SerializeToString()
    raw = rng.randbytes(rng.randrange(200)) if rng.random() < 0.05 else raw
    raw = _bent(raw, rng) if rng.random() < 0.2 else raw
    try:
        _channel(address).unary_unary("/inference.GRPCInferenceService/ModelInfer")(raw, timeout=ANSWER_S)
        return "OK"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError from None
        return str(error.code().name)


def _raw(address: str, rng: random.Random) -> str:
    host, _, port = address.partition(":")
    body = json.dumps(_request(rng)).encode()
    head = f"POST {rng.choice(PATHS)} HTTP/1.1\r\nHost: {address}\r\n".encode()
    shapes = (
        rng.randbytes(rng.randrange(1, 5000)),
        b"\r\n" * rng.randrange(1, 50),
        head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2/logging HTTP/1.1\r\n\r\n",
        head + b"Content-Length: 99999999\r\n\r\n" + body,
        head + b"Content-Length: -1\r\n\r\n" + body,
        head + b"Content-Length: %d\r\nContent-Length: 3\r\n\r\n" % len(body) + body,
        head + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n" + body,
        head + b"X: " + b"a" * rng.randrange(100_000) + b"\r\n\r\n",
        head + b"X: 1\r\n" * rng.randrange(1, 300) + b"\r\n",
        head.replace(b"/v2", rng.choice((b"/../v2", b"/%2e/v2", b"//v2", b"http://x/v2", b"\0"))) + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50),
        _bent(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, rng),
        head[: rng.randrange(1, len(head))],
    )
    with socket.create_connection((host, int(port)), timeout=ANSWER_S) as connection:
        try:
            connection.sendall(rng.choice(shapes))
            if rng.random() < 0.9:  # the others wait, as a slow client does
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(12)
        except TimeoutError:
            raise
        except OSError:
            return "closed"
    return answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/") else "closed"
