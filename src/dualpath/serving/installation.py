"""Find a Triton server and give it every backend that the model repository names.

A backend is a folder. The server's own comes first; if it has no C++ `pytorch` or `fil`, the package's Python-based
stand-in takes its place.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import UserError

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
"""Its path in NVIDIA's container."""

STAND_INS = Path(__file__).parent.parent / "backends"
"""The stand-ins: one folder a backend, in the form that Triton loads."""

EMBEDDED = (24, 10)
"""The release of nvidia-pytriton 0.7.0."""
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
"""How NVIDIA's container names its release."""

STUB = "triton_python_backend_stub"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """A Triton server on this machine.

    Attributes:
        backends: the folder of its own backends.
        stub: the Python backend's stub, built for the running Python.
        library_path: folders of its libraries and of the stub's libpython.
        embedded: whether it is laid out as in the wheel, with stubs for several Pythons and its libraries apart.
    """

    binary: Path
    backends: Path
    stub: Path
    library_path: tuple[Path, ...] = ()
    embedded: bool = False

    @property
    def release(self) -> tuple[int, int] | None:
        """The server's release, such as (24, 10); None if it does not say."""
        if self.embedded:
            return EMBEDDED
        named = re.match(r"(\d\d)\.(\d\d)", os.environ.get(RELEASE_VARIABLE, ""))
        return (int(named[1]), int(named[2])) if named else None

    def missing_backends(self) -> list[str]:
        """Name the backends that need a stand-in."""
        return [
            file.parent.name
            for file in sorted(STAND_INS.glob("*/model.py"))
            if not (self.backends / file.parent.name).is_dir()
        ]

    def environment(self) -> dict[str, str]:
        """Return this process's environment with what the server needs."""
        # The stub takes its site-packages from the `python3` that is first on PATH.
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        libraries = [*map(str, self.library_path), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        }

    def assemble_backends(self, target: Path) -> Path:
        """Return a folder with all backends: the server's own if complete, else `target`, filled."""
        missing = self.missing_backends()
        if not missing and self.stub.parent == self.backends / "python":
            return self.backends
        target.mkdir(parents=True)
        for backend in self.backends.iterdir():
            if backend.name != "python":
                # Triton refuses a library that leaves its backend's folder through a link; a linked folder is fine.
                (target / backend.name).symlink_to(backend.resolve(), target_is_directory=True)
        shutil.copytree(self.backends / "python", target / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(self.stub, target / "python" / STUB)
        for name in missing:
            shutil.copytree(STAND_INS / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        return target


def find(server: str = "auto") -> Installation:
    """Return the server that `--server` means: "auto", "embedded", or the path of a tritonserver binary.

    "auto" is an installed server if there is one, else the one from the wheel.

    Raises:
        UserError: it is absent, or does not fit the running Python.
    """
    if server == "embedded":
        return _embedded()
    if server != "auto":
        return _installed(Path(server))
    on_path = shutil.which("tritonserver")
    if CONTAINER_SERVER.is_file():
        return _installed(CONTAINER_SERVER)
    return _installed(Path(on_path)) if on_path else _embedded()


def _installed(binary: Path) -> Installation:
    if not binary.is_file() or not os.access(binary, os.X_OK):
        got = "a file that is not executable" if binary.is_file() else "no such file"
        raise UserError(f"{binary}: expected a tritonserver binary, got {got}. Pass its path, or --server embedded.")
    folder = binary.resolve().parent.parent
    backends = folder / "backends"
    stubs = folder / "python_backend_stubs"
    embedded = stubs.is_dir()
    stub = stubs / PYTHON / STUB if embedded else backends / "python" / STUB
    if not stub.is_file() or (version := python_of(stub) or PYTHON) != PYTHON:
        if embedded:
            got = f"only for {', '.join(sorted(path.name for path in stubs.glob('3.*'))) or 'none'}"
        else:
            got = f"one for Python {version}" if stub.is_file() else f"no {stub}"
        raise UserError(
            f"{binary}: expected a Python backend for Python {PYTHON}, got {got}. Install Dualpath with the server's "
            "Python, or pass --server embedded with Python 3.11 or 3.12."
        )
    if not embedded:
        return Installation(binary.absolute(), backends, stub)
    if not (numpy := importlib.metadata.version("numpy")).startswith("1."):
        raise UserError(
            f"{binary}: expected NumPy 1, got {numpy}. Give RAPIDS and whatever else needs NumPy 2 an environment of "
            "its own, or use NVIDIA's Triton container."
        )
    # A copy of the wheel's folder uses the libraries of the installed wheel.
    places = [folder.parent.parent, *([wheel.parent] if (wheel := _wheel()) else [])]
    libraries = [place / "nvidia_pytriton.libs" for place in places if (place / "nvidia_pytriton.libs").is_dir()]
    return Installation(binary.absolute(), backends, stub, (*libraries[:1], libpython_folder()), embedded)


def _wheel() -> Path | None:
    """Return the folder of the package pytriton. It is not imported, which would start machinery of its own."""
    spec = importlib.util.find_spec("pytriton")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _embedded() -> Installation:
    if (wheel := _wheel()) is None:
        raise UserError("Triton server: expected one, got none. Run `pip install 'dualpath[embedded]'`.")
    return _installed(wheel / "tritonserver" / "bin" / "tritonserver")


def python_of(stub: Path) -> str | None:
    """Return the Python version that a stub is built for, such as "3.12"; None if it does not say."""
    try:
        wanted = re.search(rb"libpython(3\.\d+)", stub.read_bytes())
    except PermissionError:  # Triton 24.10 takes all rights but the owner's execution from a model's own stub
        return None
    return wanted[1].decode() if wanted else None


def libpython_folder() -> Path:
    """Return the folder of the running Python's shared library, which the Python backend's stub needs.

    Raises:
        UserError: there is none; the message names the Debian package.
    """
    name = f"libpython{PYTHON}.so.1.0"
    libdir = sysconfig.get_config_var("LIBDIR")
    for folder in (Path(sys.base_prefix) / "lib", *([Path(libdir)] if libdir else [])):
        if (folder / name).is_file():
            return folder
    for line in _ldconfig().splitlines():
        library, _, path = line.strip().partition(" => ")
        if library.startswith(name) and Path(path).is_file():
            return Path(path).parent
    raise UserError(
        f"embedded Triton server: expected {name}, got none. Run `apt install libpython{PYTHON}` on Debian or Ubuntu; "
        "elsewhere use a Python built with --enable-shared."
    )


def _ldconfig() -> str:
    # Not on every user's PATH; without it the loader's cache is unknown, and other places were searched already.
    binary = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if binary is None:
        return ""
    return subprocess.run([binary, "-p"], capture_output=True, text=True, check=False).stdout
