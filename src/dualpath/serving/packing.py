"""Make an environment for the Python models, and pack it into an archive that Triton unpacks and runs."""

import importlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dualpath
from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.serving import environment, installation
from dualpath.serving.installation import PYTHON, STUB

SUPPORTED = ("3.11", "3.12")
NEEDS = ("numpy", "tokenizers")
"""What the models import beside this package, whose other dependencies serve its command line."""

_DESCRIBE = """
import json, platform, sys, sysconfig
library = f"{sysconfig.get_config_var('LIBDIR')}/libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
print(json.dumps({"version": platform.python_version(), "base": sys.base_prefix, "library": library}))
"""
_IMPORT = f"import dualpath, {', '.join(NEEDS)}; print(dualpath.__file__)"


@dataclass(frozen=True)
class Interpreter:
    """A Python: its version, such as "3.12.1", the folder it is installed in, and its shared library."""

    version: str
    base: Path
    library: Path

    @property
    def minor(self) -> str:
        """The version that a stub is built for, such as "3.12"."""
        return self.version.rpartition(".")[0]


@dataclass(frozen=True)
class Packed:
    """What `pack` made.

    Attributes:
        python: version of the Python in it.
        needs: folder that must be where the server runs, since the archive links to the Python there; None for Conda's.
        models: those that run in it now.
        own_stub: whether they needed a stub of their own.
    """

    archive: Path
    n_bytes: int
    python: str
    needs: Path | None
    models: tuple[str, ...]
    own_stub: bool


def pack(
    models: list[Path],
    *,
    python: str = sys.executable,
    requirements: Sequence[str] = (),
    folder: Path | None = None,
    output: Path | None = None,
    server: str = "auto",
    stub: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Packed:
    """Pack an environment and make models run in it.

    Args:
        models: folders of Python models.
        python: interpreter of a new environment, which gets this package, `NEEDS` and `requirements`, in the versions
            that are installed here.
        folder: pack this virtual or Conda environment instead.
        output: one archive for all models; by default each has its own, in its folder.
        server: whose stub to take if the Python's version differs from the running one's.
        stub: take this one instead.
        report: called with each step.
    Raises:
        UserError: something is missing, refused or does not fit.
    """
    environment.check(models)
    if output is not None:
        if not output.name.endswith((".tar.gz", ".tgz")):
            raise UserError(
                f"--output: expected a name that ends in .tar.gz, got {str(output)!r}. Triton unpacks that."
            )
        environment.check_writable(output.parent)
    conda = folder is not None and (folder / "conda-meta").is_dir()
    with needs("pack"):
        packer = importlib.import_module("conda_pack" if conda else "venv_pack")
    refusal: type[Exception] = packer.CondaPackException if conda else packer.VenvPackException
    chosen = _describe(python if folder is None else _python_in(folder))
    stub = stub or _stub(server, chosen.minor)
    if stub is not None and not stub.is_file():
        raise UserError(f"--stub {stub}: expected Triton's {STUB}, got no such file. Name another.")
    if stub is not None and not conda and not chosen.library.is_file():
        raise UserError(
            f"Python {chosen.version}: expected its shared library {chosen.library}, which Triton's stub needs, got "
            f"none. On Debian or Ubuntu `apt install libpython{chosen.minor}`, elsewhere use one built --enable-shared."
        )
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch, "environment")
            report(f"Making an environment with Python {chosen.version}")
            _make(folder, python, [*NEEDS, *requirements])
        report("Packing it")
        archive = Path(scratch, environment.ARCHIVE)
        try:
            if conda:
                packer.pack(prefix=str(folder), output=str(archive))
            else:
                packed = packer.Env(str(folder))
                if stub is not None:  # the server's own libpython does not fit it
                    packed.files.append(packer.File(str(chosen.library), f"lib/{chosen.library.name}"))
                packed.pack(output=str(archive))
        except refusal as error:
            raise UserError(
                f"{folder}: expected an environment to pack, got: {' '.join(str(error).split())}. Change it."
            ) from None
        n_bytes = archive.stat().st_size
        place = environment.attach(models, archive, stub, output)
    linked = None if conda else chosen.base
    return Packed(place, n_bytes, chosen.version, linked, tuple(model.name for model in models), stub is not None)


def _describe(python: str) -> Interpreter:
    executable = shutil.which(python)
    asked = executable and _run([executable, "-I", "-c", _DESCRIBE])
    if not asked or asked.returncode:
        raise UserError(f"--python {python}: expected a Python interpreter, got none that runs. Pass its path.")
    answer = json.loads(asked.stdout)
    found = Interpreter(answer["version"], Path(answer["base"]), Path(answer["library"]))
    if found.minor not in SUPPORTED:
        raise UserError(
            f"--python {python}: expected Python {' or '.join(SUPPORTED)}, got {found.version}. Name another."
        )
    return found


def _python_in(folder: Path) -> str:
    """Return the interpreter of an environment that the models can run in.

    Raises:
        UserError: it is no environment, or this package is not installed in it so that it can be packed.
    """
    python = folder / "bin" / "python"
    if not python.exists() or not any((folder / mark).exists() for mark in ("pyvenv.cfg", "conda-meta")):
        raise UserError(f"--environment {folder}: expected a virtual or Conda environment, got none. Name another.")
    imported = _run([str(python), "-I", "-c", _IMPORT])
    if imported.returncode:
        reason = imported.stderr.strip().rpartition("\n")[2]
        raise UserError(f"--environment {folder}: expected Dualpath in it, got {reason}. Install it there.")
    if not Path(imported.stdout.strip()).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--environment {folder}: expected Dualpath in it, got an editable install, which is outside of it. Run "
            f"`{python} -m pip install {Path(imported.stdout.strip()).parents[2]}`, without --editable."
        )
    return str(python)


def _stub(server: str, version: str) -> Path | None:
    """Return the server's stub for a Python version, or None if it runs models with that one anyway."""
    if version == PYTHON:
        return None
    found = installation.find(server)
    stub = found.stub.parent.parent / version / STUB
    if found.embedded and stub.is_file():
        return stub
    raise UserError(
        f"{found.binary}: expected a stub for Python {version}, got one for Python {PYTHON} only. "
        f"Build one of the same Triton release and pass it with --stub, or pack Python {PYTHON}."
    )


def _make(folder: Path, python: str, requirements: Sequence[str]) -> None:
    """Make a virtual environment with this very package in it.

    The package is copied, not installed: it may be an editable install here, which no archive can hold.
    """
    constraints = folder.with_name("constraints.txt")
    here = importlib.metadata.distributions()
    constraints.write_text("".join(f"{each.name}=={each.version}\n" for each in here if each.name != "dualpath"))
    target = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", target, "--disable-pip-version-check", "--no-input"]
    for command in (
        [python, "-m", "venv", "--without-pip", str(folder)],
        # Python compiles what it imports in a moment; compiled, all of it would be a third of the archive.
        [*pip, "install", "--quiet", "--no-compile", "--constraint", str(constraints), *requirements],
    ):
        ended = _run(command)
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no reason given"]
            reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
            raise UserError(
                f"{folder}: expected an environment by `{' '.join(command[:3])} ...`, got: {reason}. Correct that."
            )
    [packages] = folder.glob("lib/python*/site-packages")
    source = Path(dualpath.__file__).parent
    # The repository's link would bring the built artifacts along.
    shutil.copytree(source, packages / "dualpath", ignore=shutil.ignore_patterns("__pycache__", "model_repository"))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
