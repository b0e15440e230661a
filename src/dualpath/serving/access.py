"""The key to what a server keeps from those who may only score, and the file in which its owner's commands find it.

Whoever loads a model into Triton runs code there, so loading and its like are closed to requests without the key.
Triton 2.51 knows them by protocols: `model-repository` is the index, load and unload, `trace` and `logging` are both
the reading and the changing of settings, `shared-memory` is the system's and CUDA's.
"""

import os
import re
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from dualpath.errors import UserError

CLOSED = ("shared-memory", "model-repository", "trace", "logging")
"""The protocols that need the key. Open are health, metadata, model configs, statistics and inference."""
HEADER = "dualpath-key"
"""The HTTP header that carries the key; gRPC's is `GRPC_HEADER`."""
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
KEY_FILE_VARIABLE = "DUALPATH_KEY_FILE"
"""Environment variable that names the key's file, of a server on another machine for example."""
REFUSED = "expecting header"
"""What Triton's refusal of a request without the key contains."""
NO_KEY = (
    "--url: expected the key of the server, which does this for its owner only, got none that fits. "
    f"Run this as the user that started the server, or name the key's file by {KEY_FILE_VARIABLE}."
)
"""What to say then."""

_KEY = re.compile(r"[\w.~-]{16,}", re.ASCII)


def new_key() -> str:
    """Return a key that nobody can guess."""
    return secrets.token_urlsafe(32)


def arguments(key: str) -> list[str]:
    """Return what closes a tritonserver to requests without the key."""
    closed = f"{','.join(CLOSED)}:{HEADER}={key}"
    return [f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"]


def read_key(path: Path) -> str:
    """Return the key that a file holds.

    Raises:
        UserError: there is no such file, other users may read it, or it holds no key.
    """
    try:
        key, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a file with the server's key, got: {error}. Name another.") from None
    if mode & 0o007:
        raise UserError(f"{path}: expected a file that other users cannot read, got mode {mode & 0o777:o}. Change it.")
    if not _KEY.fullmatch(key):
        raise UserError(
            f"{path}: expected a key of at least 16 letters, digits, '-_.~', got other text. Write another."
        )
    return key


def default_file(port: int, what: str = "key") -> Path:
    """Return the file of the key (or `what` else) of the server at a gRPC port of this machine."""
    return _folder() / f"{port}.{what}"


class OwnFile:
    """A line in a file that only its user can read, there while a server is; `close` removes it.

    The file is locked as long as this process lives, so that one left behind can be told.
    """

    def __init__(self, path: Path, line: str) -> None:
        import fcntl  # Windows has none, nor a server that needs it

        self.path, folder = path, path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise UserError(f"{folder}: expected a folder of this user, got another's. Set XDG_RUNTIME_DIR.")
            folder.chmod(0o700)
            new = path.with_name(f".{path.name}.{os.getpid()}")
            new.unlink(missing_ok=True)
            self._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, f"{line}\n".encode())
            new.replace(path)
        except OSError as error:
            raise UserError(
                f"{folder}: expected a folder to write to, got: {error.strerror}. Free space or give it rights, "
                "or name another by XDG_RUNTIME_DIR."
            ) from None

    def close(self) -> None:
        """Remove the file, if it is still this server's."""
        with suppress(OSError):
            if self.path.stat().st_ino == os.fstat(self._descriptor).st_ino:
                self.path.unlink()
        os.close(self._descriptor)


def key_for(url: str) -> str | None:
    """Return the key of the server at a gRPC address, if this user has it.

    It is looked for in the file that DUALPATH_KEY_FILE names, else, for an address of this machine, in `default_file`.

    Raises:
        UserError: the file that DUALPATH_KEY_FILE names holds no key.
    """
    if named := os.environ.get(KEY_FILE_VARIABLE):
        return read_key(Path(named))
    path = _file_for(url, "key")
    try:
        return read_key(path) if path else None
    except UserError:
        return None


def health_for(url: str) -> str | None:
    """Return the address of the health endpoint of the server at a gRPC address of this machine, if it has one."""
    path = _file_for(url, "health")
    return path.read_text(encoding="ascii").strip() if path else None


def _file_for(url: str, what: str) -> Path | None:
    """Return the file of a living server at a gRPC address of this machine."""
    host, _, port = url.rpartition(":")
    if not hasattr(os, "getuid") or not port.isdecimal() or not _is_here(host.strip("[]")):
        return None
    path = default_file(int(port), what)
    try:
        return None if _is_stale(path) else path
    except OSError:
        return None


def _folder() -> Path:
    # Not by XDG_RUNTIME_DIR alone: a service and its user's shell may differ in having it.
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    if runtime.is_dir() and os.access(runtime, os.W_OK):
        return runtime / "dualpath"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualpath"


def _is_stale(path: Path) -> bool:
    """Tell whether the process that wrote a key's file has ended."""
    import fcntl

    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # it is locked, or on a file system without locks
            return False
        return True


def _is_here(host: str) -> bool:
    """Tell whether a name or address is this machine's own: only those can be bound."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as it:
            it.bind(address)
    except OSError:
        return False
    return True
