"""Servers behind the balancer of deploy/haproxy.cfg, and a client that keeps them busy."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import closing, contextmanager, suppress
from functools import partial

import numpy as np
import tritonclient.grpc as grpcclient

from dualpath.readability.contract import EXCERPT, SCORE, WEIGHT
from dualpath.serving.preflight import check_ports
from paths import ROOT
from processes import tritons

HAPROXY = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
DUALPATH = [sys.executable, "-c", "from dualpath.cli import main; main()"]
PORTS = ("http", "grpc", "metrics", "health")


def until(condition, what, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


class Served:
    """`dualpath serve` in a process of its own, on the same ports after each start.

    Args:
        command: the words before its own options.
        cores: those that it may use; None for all.
    """

    def __init__(self, repository, log, command=("dualpath", "serve"), cores=None):
        self.repository, self.log, self.cores = repository, log, cores
        self.command = [*DUALPATH, *command[1:]]
        self.ports = check_ports("127.0.0.1", dict.fromkeys(PORTS, 0))
        self.process = None

    @property
    def url(self):
        return f"127.0.0.1:{self.ports['grpc']}"

    def get(self, path, port="health"):
        """Return status and text of what a port answers; status 0 if nothing does."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def start(self):
        pinned = ["taskset", "--cpu-list", ",".join(map(str, self.cores))] if self.cores else []
        options = [word for name, port in self.ports.items() for word in (f"--{name}-port", str(port))]
        with self.log.open("a") as said:
            self.process = subprocess.Popen(
                [*pinned, *self.command, *options, "--model-repository", str(self.repository)],
                stdout=said,
                stderr=said,
            )

    def await_ready(self):
        def ready():
            assert self.process.poll() is None, self.log.read_text()
            return self.get("/ready")[0] == 200

        until(ready, "the first scores", 240)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self.process = None

    def kill_triton(self):
        [pid] = tritons(self.process.pid)
        os.kill(pid, signal.SIGKILL)


@contextmanager
def serving(*servers):
    """Start servers at the same time, and stop them."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.await_ready()
        yield
    finally:
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.stop()


class Balancer:
    """HAProxy with deploy/haproxy.cfg, before the servers "one" and "two"."""

    def __init__(self, folder, one, two):
        self._admin = folder / "admin"
        [port] = check_ports("127.0.0.1", {"--listen": 0}).values()
        self.url = f"127.0.0.1:{port}"
        self.environment = {
            "LISTEN": self.url,
            "ADMIN": str(self._admin),
            **{f"SERVER_{i}": server.url for i, server in enumerate((one, two), 1)},
            **{f"HEALTH_{i}": str(server.ports["health"]) for i, server in enumerate((one, two), 1)},
        }

    @contextmanager
    def running(self):
        command = [HAPROXY, "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
        with (
            self._admin.with_name("haproxy.log").open("w") as said,
            subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=said, stderr=said) as process,
        ):
            try:
                until(self._admin.exists, "HAProxy")
                until(lambda: self.status("one") == self.status("two") == "UP", "both servers")
                yield process
            finally:
                process.terminate()

    def admin(self, command):
        with closing(socket.socket(socket.AF_UNIX)) as at:
            at.connect(str(self._admin))
            at.sendall(f"{command}\n".encode())
            return at.makefile().read()

    def stat(self, name):
        head, *rows = (line.split(",") for line in self.admin("show stat").removeprefix("# ").split("\n") if line)
        return next(row for cells in rows if (row := dict(zip(head, cells, strict=False)))["svname"] == name)

    def status(self, name):
        return self.stat(name)["status"]

    def drain(self, name):
        """Give a server no more calls, and return when it has answered its last."""
        self.admin(f"set server triton/{name} state drain")
        until(lambda: self.stat(name)["scur"] == "0", f"the last call of {name}")

    def bring_back(self, name):
        self.admin(f"set server triton/{name} state ready")
        until(lambda: self.status(name) == "UP", f"{name} to be back")


class Clients:
    """Clients that ask one address all the while, each for one answer at a time; one thread sends for all of them.

    Args:
        requests: each excerpts and weights, asked one after the other, over and over.
        pause_s: how long to wait after answers before the next requests, which leaves the processors to others.

    Attributes:
        answers: of each request that was answered: its number among `requests`, its scores, and when.
        errors: the words of each that failed.
        n_sent, n_ended: how many were sent, and how many have ended.
    """

    def __init__(self, url, requests, n_clients, model="orchestrator", pause_s=0.0):
        self.answers, self.errors, self.n_sent, self.n_ended = [], [], 0, 0
        self._model, self._n_clients, self._pause_s = model, n_clients, pause_s
        self._inputs = [_inputs(*request) for request in requests]
        self._client = grpcclient.InferenceServerClient(url)
        self._ended, self._idle, self._lock = threading.Event(), deque(range(n_clients)), threading.Condition()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        with self._lock:
            self._lock.notify()
        self._thread.join()
        until(lambda: self.n_ended == self.n_sent, "answers to all requests", 310)
        self._client.close()

    def _send(self):
        while not self._ended.wait(self._pause_s):
            with self._lock:
                self._lock.wait_for(lambda: self._idle or self._ended.is_set())
                n_idle = len(self._idle)
                self._idle.clear()
            for _ in range(0 if self._ended.is_set() else n_idle):
                number = self.n_sent % len(self._inputs)
                self.n_sent += 1
                self._client.async_infer(
                    self._model, self._inputs[number], partial(self._note, number), client_timeout=300
                )

    def _note(self, number, result, error):
        if error is None:
            self.answers.append((number, tuple(result.as_numpy(SCORE.name)[:, 0].tolist()), time.monotonic()))
        else:
            self.errors.append(str(error))
        with self._lock:
            self.n_ended += 1
            self._idle.append(number)
            self._lock.notify()


def _inputs(excerpts, weights):
    inputs = [
        grpcclient.InferInput(EXCERPT.name, [len(excerpts), 1], "BYTES"),
        grpcclient.InferInput(WEIGHT.name, [len(excerpts), 1], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.array(excerpts, np.object_)[:, None])
    inputs[1].set_data_from_numpy(np.array(weights, np.float32)[:, None])
    return inputs
