"""Start a Triton server, watch it, and stop it with everything that belongs to it."""

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

from dualpath.errors import UserError
from dualpath.repository import folders, releases
from dualpath.serving import access, environment, installation, log, preflight
from dualpath.serving.client import TLS, open_client
from dualpath.serving.installation import Installation
from dualpath.serving.loader import Pins, ReloadFailed
from dualpath.serving.triton_process import POLL_S, SHM_BYTES, ServerFailed, StartFailed, StartProgress, TritonProcess


class TritonServer:
    """A Triton server on a model repository, as a context manager: ready inside the block, gone after it.

    Args:
        model_repository: folder of models; all are served.
        host: name or IPv4 address to listen on.
        http_port: 0 means any free port; so with `grpc_port` and `metrics_port`.
        more_ports: by option, such as {"--health-port": 0}: checked and chosen with the server's own ports, for
            what stands beside it.
        on_loopback: options of ports, such as {"--http-port"}, that listen there alone, whatever `host` is.
        config_name: serve `configs/<config_name>.pbtxt` of each model with instances.
        server: "auto", "embedded", or the path of a tritonserver binary.
        log_path: where Triton's output goes; by default a temporary file, which is kept only if something failed.
        extra_args: further arguments for tritonserver.
        on_progress: called while loading, several times a second.
        on_record: called with each record of Triton's log, inside `start` and `wait`.
        start_timeout_s: how long loading may take.
        key: what a request must carry to load, trace, log or register shared memory (`access`); by default a new one.
        tls: files of a certificate and its private key, both PEM, for gRPC.

    Attributes:
        pid: of the Triton process, once started.
        address: IPv4 address that it listens on, once started.
        more_ports: those that were chosen, once started.
        shm_prefix: how the names of its regions in /dev/shm begin, once started.
        key_file: where commands on this machine find the key, once started.
        key_shows: whether other users of this machine can read the key among Triton's arguments, once started.
        log_path: where its output goes, once started.
        ready: whether every model was loaded.
    """

    def __init__(
        self,
        model_repository: Path | str,
        *,
        host: str = "127.0.0.1",
        http_port: int = 8000,
        grpc_port: int = 8001,
        metrics_port: int = 8002,
        more_ports: Mapping[str, int] | None = None,
        on_loopback: Collection[str] = (),
        config_name: str | None = None,
        server: str = "auto",
        log_path: Path | None = None,
        extra_args: Sequence[str] = (),
        on_progress: Callable[[StartProgress], None] | None = None,
        on_record: Callable[[log.Record], None] | None = None,
        start_timeout_s: float = 600,
        key: str | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.model_repository = Path(model_repository).absolute()
        self.host = host
        self.ready = False
        self.pid = 0
        self.shm_prefix = ""
        self.key = key or access.new_key()
        self.key_file: Path | None = None
        self.key_shows = False
        self._tls = tls
        self._written: access.OwnFile | None = None
        self.log_path = log_path.absolute() if log_path else None
        self._ports = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
        self.more_ports = dict(more_ports or {})
        self._on_loopback = on_loopback
        self._config_name = config_name
        self._server = server
        self._keep_log = log_path is not None
        self._extra_args = extra_args
        self._on_progress = on_progress or (lambda progress: None)
        self._on_record = on_record
        self._start_timeout_s = start_timeout_s
        self.address = ""
        self._process: TritonProcess | None = None
        self._failed = self._restarted = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def certificate(self) -> Path | None:
        """The file of the gRPC endpoint's certificate, with TLS."""
        return self._tls[0] if self._tls else None

    @property
    def http_url(self) -> str:
        """Address of the HTTP endpoint, such as "127.0.0.1:8000"."""
        return self._url("--http-port")

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC endpoint, such as "127.0.0.1:8001", or "grpcs://127.0.0.1:8001" with TLS."""
        return f"{TLS if self._tls else ''}{self._url('--grpc-port')}"

    @property
    def metrics_url(self) -> str:
        """Address of the metrics, such as "http://127.0.0.1:8002/metrics"."""
        return f"http://{self._url('--metrics-port')}/metrics"

    def _url(self, option: str) -> str:
        # A server on all addresses is reached through the loopback.
        address = self._address_of(option)
        return f"{'127.0.0.1' if address == '0.0.0.0' else address}:{self._ports[option]}"

    def _address_of(self, option: str) -> str:
        return "127.0.0.1" if option in self._on_loopback else self.address

    def start(self) -> None:
        """Start the server and return when every model is ready.

        Raises:
            UserError: it cannot be started as asked.
            StartFailed: a model did not load, or Triton ended.
        """
        models = folders.models(self.model_repository)
        found = installation.find(self._server)
        preflight.check_tls(self._tls)
        preflight.check_artifacts(models)
        environment.check_attached(models, self._config_name, found.stub)
        preflight.check_config_name(models, self._config_name)
        preflight.check_devices(models, self._config_name, found)
        if found.embedded:
            preflight.check_shared_memory(models, self._config_name, SHM_BYTES)
        preflight.check_known_faults(models, self._config_name, found.release)
        self.address = preflight.resolve(self.host)
        more = {} if self._restarted else self.more_ports
        chosen = preflight.check_ports(self.address, self._ports | more)
        self._ports = {option: chosen[option] for option in self._ports}
        self.more_ports = {option: chosen[option] for option in more} or self.more_ports
        try:
            # Nobody publishes a version while Triton looks which there are.
            with releases.locked(self.model_repository, lambda line: self._on_progress(StartProgress(held_up=line))):
                releases.complete(self.model_repository)
                pins = Pins.of(models, self._config_name)
                at_once = [model.name for model in models if model.name not in pins.ensembles]
                process = self._spawn(found, at_once if pins.ensembles else ["*"])
                self._written = access.OwnFile(access.default_file(self._ports["--grpc-port"]), self.key)
                self.key_file = self._written.path
                process.await_ready(at_once, self.http_url, self._start_timeout_s, self._on_progress)
                self.ready = True
                self.close_shared_memory()
                self.key_shows = self.key.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
                if pins.ensembles:
                    with closing(open_client(self.grpc_url, certificate=self.certificate)) as client:
                        pins.load(client)
        except ReloadFailed as error:
            self.stop()
            raise StartFailed(str(error)) from None
        except OSError as error:
            self.stop()
            raise UserError(
                f"{error.filename or 'temporary files'}: expected a place to write what a server needs, got: "
                f"{error.strerror}. Free space or give it rights; TMPDIR names another folder for temporary files."
            ) from None
        except BaseException:
            self.stop()
            raise

    def wait(self, timeout_s: float) -> None:
        """Pass the log on for `timeout_s`.

        Raises:
            ServerFailed: Triton ended by itself.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process is not None:
                self._process.read_log()
                self._process.check_alive(ServerFailed, self.ready)
            if (left := deadline - time.monotonic()) <= 0:
                return
            time.sleep(min(POLL_S, left))

    def skip_log(self) -> None:
        """Pass over what Triton has logged: while a model is replaced it complains of what is meant."""
        if self._process is not None:
            self._process.read_log(pass_on=False)

    def close_shared_memory(self) -> None:
        """Take the right to read what passes between Triton and its models from other users: Triton gives it."""
        for region in Path("/dev/shm").glob(f"{self.shm_prefix}*"):
            with suppress(OSError):
                region.chmod(0o600)

    def restart(self) -> None:
        """Kill the server, in whatever state it is, and start it on the same ports with the same key.

        Raises: as `start`.
        """
        self.stop(at_once=True)
        self._restarted = True
        self.start()

    def stop(self, at_once: bool = False) -> None:
        """Stop the server and return when nothing of it is left. Does nothing if it is not running.

        Args:
            at_once: leave requests in flight unanswered; their connections are closed.
        """
        if self._process is not None:
            self._process.stop(at_once)
            self._failed |= self._process.failed
            self._process = None
        if self.log_path and not self._keep_log and not self._failed and not at_once:
            self.log_path.unlink(missing_ok=True)
        if self._written is not None:
            self._written.close()
            self._written = self.key_file = None
        self.ready = False

    def _arguments(self, models: Sequence[str]) -> list[str]:
        certificate, key = (file.absolute() for file in self._tls) if self._tls else (None, None)
        tls = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
        return [
            f"--model-repository={self.model_repository}",
            *(f"{option.replace('port', 'address')}={self._address_of(option)}" for option in self._ports),
            *(f"{option}={port}" for option, port in self._ports.items()),
            # Explicit, so that a model can be unloaded and loaded again while the server runs.
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            *([f"--model-config-name={self._config_name}"] if self._config_name else []),
            *(tls if self._tls else []),
            *self._extra_args,
        ]

    def _spawn(self, found: Installation, models: Sequence[str]) -> TritonProcess:
        if self.log_path is None:
            descriptor, name = tempfile.mkstemp(prefix="dualpath-triton-", suffix=".log")
            os.close(descriptor)
            self.log_path = Path(name)
        process = self._process = TritonProcess(
            found,
            self._arguments(models),
            key=self.key,
            log_path=self.log_path,
            again=self._restarted,
            on_record=self._on_record,
        )
        self.pid, self.shm_prefix = process.pid, process.shm_prefix
        return process
