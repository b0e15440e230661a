"""What must hold before a server starts: each check raises a UserError that says what to do."""

import errno
import os
import random
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dualpath.errors import UserError
from dualpath.readability.contract import MODELS
from dualpath.repository import configs, folders
from dualpath.repository.facts import Facts
from dualpath.serving import gpus
from dualpath.serving.installation import Installation

SHM = Path("/dev/shm")
QUEUE_MENDED = (26, 2)
"""The release from which an ensemble's step may bound its queue."""
GPU = "gpu"
"""The config name that puts all of the pipeline on a GPU."""
TEXT_ON_CPU = "gpu-models"
"""The config name that puts only the two models on a GPU: what takes text runs on the CPU, and needs no RAPIDS."""


def check_artifacts(models: list[Path]) -> None:
    """Refuse a model without the files that Triton loads it from."""
    built = {model.name: filter(None, (model.artifact, model.companion)) for model in MODELS}
    for model in models:
        for file in built.get(model.name, ()):
            if not any((version / file).is_file() for version in folders.versions(model)):
                raise UserError(f"{model.name}: expected {model / '1' / file}, got none. Run `dualpath build`.")
        check_undamaged(folders.newest(model))
        check_code(model, folders.newest(model).name)


def check_code(model: Path, version: int | str) -> None:
    """Refuse a version of a Python model without its code: Triton 2.51 waits for ever for that."""
    config = configs.read(model)
    code = model / str(version) / (config.default_model_filename or "model.py")
    if configs.is_python(config) and not code.is_file():
        raise UserError(f"{model.name}: expected its code at {code}, got no such file. Restore it.")


def check_undamaged(version: Path) -> None:
    """Refuse a version whose files are not those that were published with it; files without a record pass."""
    if damaged := Facts.of(version).damaged(version):
        raise UserError(
            f"{version.parent.name}: expected {' and '.join(damaged)} of version {version.name} as recorded when made, "
            f"got other bytes: damaged or changed since. Run `dualpath build --force`, or restore it from a copy."
        )


def check_shared_memory(models: list[Path], config_name: str | None, bytes_each: int) -> None:
    """Refuse a /dev/shm without room for the pools of the Python models' processes: Triton would end in the middle."""
    groups = [group for model in models for group in configs.read(model, config_name).instance_group]
    n_processes = sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups)
    with suppress(OSError):  # a machine without /dev/shm has no such bound
        status = os.statvfs(SHM)
        free = status.f_bavail * status.f_frsize
        wanted = n_processes * bytes_each
        if free < wanted:
            raise UserError(
                f"{SHM}: expected {wanted / 1e6:.0f} MB free for the {n_processes} processes of Python models, got "
                f"{free / 1e6:.0f} MB. Make it larger: `docker run --shm-size`, or `mount -o remount,size=1g {SHM}`."
            )


def check_tls(files: tuple[Path, Path] | None) -> None:
    """Refuse a certificate and key that cannot be read or do not belong together: Triton would end without a reason."""
    if files is None:
        return
    certificate, key = files
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--grpc-tls-cert {certificate}, --grpc-tls-key {key}: expected a certificate and its private key without "
            f"a password, both PEM, got: {error}. Give files that belong together."
        ) from None


def check_config_name(models: list[Path], config_name: str | None) -> None:
    """Refuse a config name that a model with instances lacks: Triton would silently take its config.pbtxt."""
    if config_name is None:
        return
    lacking = [model for model in _with_instances(models) if not (model / "configs" / f"{config_name}.pbtxt").is_file()]
    if lacking:
        known = sorted({path.stem for model in models for path in model.glob("configs/*.pbtxt")})
        raise UserError(
            f"--config-name {config_name}: expected configs/{config_name}.pbtxt in every model with instances, got "
            f"none in {', '.join(model.name for model in lacking)}. The repository has: {', '.join(known) or 'none'}."
        )


def check_devices(models: list[Path], config_name: str | None, installation: Installation) -> None:
    """Refuse a GPU configuration if there is no GPU, or if what would compute on it is missing."""
    read = {model.name: configs.read(model, config_name) for model in models}
    wanting = [
        name for name, config in read.items() if any(group.kind == group.KIND_GPU for group in config.instance_group)
    ]
    if not wanting:
        return
    instead = "leave out --config-name" if config_name else "give it KIND_CPU"
    if missing := gpus.no_gpu():
        raise UserError(
            f"{', '.join(wanting)}: expected {missing.expected} for KIND_GPU, got {missing.got}. "
            f"To use the CPU, {instead}."
        )
    on_torch = [name for name in wanting if read[name].backend == "pytorch"]
    if on_torch and "pytorch" in installation.missing_backends() and (missing := gpus.no_cuda_in_torch()):
        raise UserError(
            f"{', '.join(on_torch)}: expected {missing.expected} for KIND_GPU, as the server has no C++ backend "
            f"pytorch, got {missing.got}. {missing.get}, or {instead}."
        )
    ours = {model.name for model in MODELS if model.backend == "python"}.intersection(wanting)
    # The others have an environment of their own, which brings a Python.
    in_this_python = [name for name in read if name in ours and "EXECUTION_ENV_PATH" not in read[name].parameters]
    if in_this_python and (missing := gpus.no_rapids()):
        text_on_cpu = all((model / "configs" / f"{TEXT_ON_CPU}.pbtxt").is_file() for model in _with_instances(models))
        without = f"pass --config-name {TEXT_ON_CPU}, which needs none, " if text_on_cpu else ""
        raise UserError(
            f"{', '.join(in_this_python)}: expected {missing.expected} in this Python, which the GPU configuration "
            f"runs them with, got {missing.got}. {missing.get}, {without}or {instead}."
        )


def check_known_faults(models: list[Path], config_name: str | None, release: tuple[int, int] | None) -> None:
    """Refuse a config that this release answers wrongly; of an unknown release, what every known one does.

    docs/operate.md has the other faults.
    """
    read = {model.name: configs.read(model, config_name) for model in models}
    steps = {step.model_name: name for name, config in read.items() for step in config.ensemble_scheduling.step}
    for name, config in read.items():
        if config.response_cache.enable:
            raise UserError(
                f"{name}: expected no response_cache, got it enabled. Triton's cache does not tell requests apart by "
                "their parameters, and answers a request that failed before as a success without outputs; no release "
                "is known to fix it. Remove response_cache, or cache in front of the server."
            )
        batching = config.dynamic_batching
        policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
        bound = max(policy.max_queue_size for policy in policies)
        if name in steps and bound and release is not None and release < QUEUE_MENDED:
            raise UserError(
                f"{name}: expected no max_queue_size, got {bound} on a step of {steps[name]}. In Triton "
                f"{release[0]}.{release[1]:02} an ensemble hangs for ever once a step's queue is full; 26.02 fixes it. "
                "Remove max_queue_size, or bound the requests in front of the server."
            )


def _with_instances(models: list[Path]) -> list[Path]:
    return [model for model in models if configs.read(model).instance_group]


def resolve(host: str) -> str:
    """Return the IPv4 address to listen on: Triton's HTTP server takes no names."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise UserError(
            f"--host: expected a name or IPv4 address of this machine, got {host!r}. Try 127.0.0.1."
        ) from None


def check_ports(address: str, ports: Mapping[str, int]) -> dict[str, int]:
    """Return the ports by option, with every 0 replaced by a free one; refuse one that cannot be listened on.

    Args:
        address: IPv4 address to listen on.
        ports: by option, such as {"--http-port": 8000}.
    """
    chosen: dict[str, int] = {}
    for option, port in ports.items():
        if twin := next((other for other, taken in chosen.items() if port and taken == port), None):
            raise UserError(f"{option}, {twin}: expected two ports, got {port} for both. Give each its own.")
        if not 0 <= port <= 65535:
            raise UserError(f"{option}: expected a port from 0 (any free one) to 65535, got {port}. Choose another.")
        if port and (reason := _bind(address, port)) is not None:
            if reason == errno.EADDRNOTAVAIL:
                raise UserError(f"--host: expected an address of this machine, got {address}. Choose another.")
            what = {errno.EADDRINUSE: "already in use", errno.EACCES: "reserved for root"}.get(reason, "not usable")
            raise UserError(
                f"{option}: expected a free port on {address}, got {port}, which is {what}. Choose another."
            )
        chosen[option] = port
    for option, port in chosen.items():
        if port == 0:
            chosen[option] = _free_port(address, taken=set(chosen.values()))
    return chosen


def _free_port(address: str, taken: set[int]) -> int:
    # Below Linux's ephemeral range (32768 up): nothing takes such a port by chance while the models load.
    for port in random.sample(range(10240, 32768), 1000):
        if port not in taken and _bind(address, port) is None:
            return port
    raise UserError(f"--host: expected a free port on {address}, got none. End other servers.")


def _bind(address: str, port: int) -> int | None:
    """Bind as a server would; return the errno of a failure."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            # Two sockets may be bound with SO_REUSEADDR, but only one can listen.
            listener.listen(1)
        except OSError as error:
            return error.errno
    return None
