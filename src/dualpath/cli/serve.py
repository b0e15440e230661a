"""`dualpath serve`: Triton in the foreground."""

from __future__ import annotations

import ipaddress
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from dualpath.cli.options import DEFAULT_REPOSITORY, ModelRepository
from dualpath.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from dualpath.serving import StartProgress, TritonServer
    from dualpath.serving.log import Record

_POLL_S = 0.25

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers

SEVERITIES = {"W": "warning", "E": "error", "F": "fatal"}


def serve(
    model_repository: ModelRepository = DEFAULT_REPOSITORY,
    http_port: Annotated[int, Option(help="Port for HTTP; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int, Option(help="Port for gRPC; 0 takes a free one.")] = 8001,
    metrics_port: Annotated[int, Option(help="Port for metrics; 0 takes a free one.")] = 8002,
    host: Annotated[
        str, Option(help="Address to listen on. Whoever reaches it may score; the rest needs the server's key.")
    ] = "127.0.0.1",
    config_name: Annotated[
        str | None, Option(help="Take configs/NAME.pbtxt of each model, such as `gpu`, for its config.pbtxt.")
    ] = None,
    server: Annotated[
        str,
        Option(
            help="Triton server: `auto` (an installed one, else the embedded), `embedded`, or a path to tritonserver."
        ),
    ] = "auto",
    key_file: Annotated[
        Path | None,
        Option(
            envvar="DUALPATH_KEY_FILE", help="Take the key to loading, tracing and logging from here; else make one."
        ),
    ] = None,
    grpc_tls_cert: Annotated[Path | None, Option(help="Certificate (PEM) for gRPC; HTTP has no TLS.")] = None,
    grpc_tls_key: Annotated[Path | None, Option(help="The certificate's private key (PEM).")] = None,
    gateway_port: Annotated[
        int | None,
        Option(help="Put HAProxy in front of HTTP, on this port: it bounds sizes and takes binary tensors only."),
    ] = None,
    gateway_grpc_port: Annotated[
        int | None,
        Option(help="Put it in front of gRPC too, on this port: it bounds sizes, shapes and calls of ensembles."),
    ] = None,
    health_port: Annotated[
        int, Option(help="Port for /live, /ready, /status and /metrics of the watchdog; 0 takes a free one.")
    ] = 8003,
    watchdog: Annotated[
        bool, Option("--watchdog/--no-watchdog", help="Replace what dies or hangs: a model, or the server.")
    ] = True,
    verbose: Annotated[bool, Option("--verbose", help="Pass Triton's log through.")] = False,
) -> None:
    """Serve the models on Triton until Ctrl-C."""
    from rich.console import Console

    from dualpath.serving import access, preflight

    if (grpc_tls_cert is None) != (grpc_tls_key is None):
        raise UserError("--grpc-tls-cert, --grpc-tls-key: expected both or neither, got one. Give the other too.")
    if gateway_grpc_port is not None and gateway_port is None:
        raise UserError("--gateway-grpc-port: expected --gateway-port with it, got none. Give both.")
    tls = (grpc_tls_cert, grpc_tls_key) if grpc_tls_cert and grpc_tls_key else None
    preflight.check_tls(tls)
    behind_gateway = {"--http-port": gateway_port, "--grpc-port": gateway_grpc_port}
    more_ports = {
        "--health-port": health_port if watchdog else None,
        "--gateway-port": gateway_port,
        "--gateway-grpc-port": gateway_grpc_port,
    }
    options = {
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "more_ports": {option: port for option, port in more_ports.items() if port is not None},
        "on_loopback": [option for option, port in behind_gateway.items() if port is not None],
        "config_name": config_name,
        "server": server,
        "key": access.read_key(key_file) if key_file else None,
        "tls": None if gateway_grpc_port is not None else tls,
    }
    console = Console(stderr=True, highlight=False)
    with suppress(KeyboardInterrupt), start(model_repository, console, verbose=verbose, **options) as triton:
        print(f"gRPC     {triton.grpc_url}")
        print(f"HTTP     http://{triton.http_url}")
        print(f"metrics  {triton.metrics_url}")
        print(f"key      {triton.key_file}")
        for line in _exposure(triton):
            print(line)
        with (
            _gateway(triton, console, tls) as keep_open,
            _watch(triton, console) if watchdog else nullcontext(partial(triton.wait, _POLL_S)) as look,
        ):
            print("Ctrl-C stops it", flush=True)
            while True:
                look()
                keep_open()


@contextmanager
def _gateway(triton: TritonServer, console: Console, tls: tuple[Path, Path] | None) -> Iterator[Callable[[], None]]:
    """Put the proxy in front of HTTP and gRPC, if ports for it were asked for; give what keeps it alive."""
    from dualpath.repository import configs, folders
    from dualpath.serving.gateway import Gateway, GrpcSide

    port, grpc_port = (triton.more_ports.get(option) for option in ("--gateway-port", "--gateway-grpc-port"))
    if port is None:
        yield lambda: None
        return
    assert triton.log_path is not None
    models = folders.models(triton.model_repository)
    ensembles = [model.name for model in models if configs.read(model).ensemble_scheduling.step]
    log = triton.log_path.with_suffix(".gateway.log")

    def keep_open() -> None:
        if line := gateway.revive():
            _report(console, line)

    grpc = None if grpc_port is None else GrpcSide(grpc_port, triton.grpc_url, tls)
    with Gateway(triton.address, port, triton.http_url, log, ensembles, grpc) as gateway:
        print(f"gateway  {gateway.url}")
        if grpc:
            print(f"gateway-gRPC {gateway.grpc_url}")
        yield keep_open


def _report(console: Console, line: str) -> None:
    console.print(f"{datetime.now():%H:%M:%S} {line}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _watch(triton: TritonServer, console: Console) -> Iterator[Callable[[], None]]:
    """Give what looks after a server once."""
    from dualpath.serving.watch import watched

    def look() -> None:
        dog.step()
        time.sleep(_POLL_S)

    with watched(triton, partial(_report, console)) as (dog, url):
        print(f"health   {url}/ready")
        yield look


def _exposure(triton: TritonServer) -> Iterator[str]:
    """Say what others can do, if they can do anything."""
    if not ipaddress.ip_address(triton.address).is_loopback:
        yield (
            f"open to all who reach {triton.host}: scoring, models' configs and statistics, metrics; closed without "
            "the key: loading, tracing, logging, shared memory"
        )
    if triton.key_shows:
        yield "warning: other users of this machine can read the key in the process list; see docs/security.md"


@contextmanager
def start(model_repository: Path, console: Console, *, verbose: bool = False, **options: Any) -> Iterator[TritonServer]:
    """Start Triton under a spinner, by default on free ports; stop it in the end. SIGTERM becomes KeyboardInterrupt.

    Args:
        options: arguments of `TritonServer`.
    Raises:
        UserError: it cannot be started as asked.
        Exit: with 1, the reason printed: a model did not load, or Triton ended by itself.
    """
    from dualpath.serving import ServerFailed, TritonServer

    def show_progress(progress: StartProgress) -> None:
        if progress.held_up:
            console.print(progress.held_up, markup=False, highlight=False, soft_wrap=True)
            return
        n_models = len(progress.ready) + len(progress.waiting)
        waits = f"waiting for {', '.join(progress.waiting)}" if progress.waiting else "waiting for the server"
        status.update(f"Loading models, {len(progress.ready)} of {n_models} ready; {waits}")

    def show_record(record: Record) -> None:
        if verbose:
            console.print(record.text, markup=False, highlight=False, soft_wrap=True)
        elif record.severity in SEVERITIES and _counts(record, triton.ready):
            text = f"{SEVERITIES[record.severity]}: {record.message} [{record.source}]"
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    free_ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    triton = TritonServer(
        model_repository, on_progress=show_progress, on_record=show_record, **{**free_ports, **options}
    )
    # As Ctrl-C: the terminal's end too, and SIGINT itself, which a script's shell may have ignored.
    with handled_by(signal.default_int_handler, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            with console.status("Starting Triton") as status:
                triton.start()
            yield triton
        except ServerFailed as error:
            print(f"dualpath: {error}", file=sys.stderr)
            raise Exit(1) from None
        finally:
            with console.status("Stopping Triton"):
                triton.stop()


def _counts(record: Record, ready: bool) -> bool:
    """Say whether a warning is about more than the GPU that a laptop does not have.

    While loading, Triton has several of those, and some on an ensemble's first request; what models say counts always.
    """
    from dualpath.serving import gpus

    about_gpu = record.source.startswith("pinned_memory_manager.cc") or "CUDA" in record.message
    return ".py:" in record.source or (ready and (gpus.gpu_visible() or not about_gpu))


@contextmanager
def handled_by(handler: Handler, *signals: signal.Signals) -> Iterator[None]:
    """Let a handler have the signals while the block runs."""
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, handler_before in zip(signals, before, strict=True):
            signal.signal(number, handler_before)
