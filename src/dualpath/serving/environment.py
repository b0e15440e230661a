"""Give Python models an execution environment: the archive, the stub, and the parameter that names them.

Triton unpacks the archive that a Python model's `EXECUTION_ENV_PATH` names and runs the model with the Python in it.
If that Python is of another version than the server's, a stub for it must lie in the model's folder.
"""

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

from dualpath.errors import UserError
from dualpath.repository import configs, folders
from dualpath.repository.pbtxt import Config
from dualpath.serving.installation import STUB, python_of

ARCHIVE = "environment.tar.gz"
"""The archive's name in a model's folder."""

_PARAMETER = "EXECUTION_ENV_PATH"
_HERE = "$$TRITON_MODEL_DIRECTORY"


def python_models(model_repository: Path, names: list[str]) -> list[Path]:
    """Return the folders of the named Python models, or of every Python model if none is named.

    Raises:
        UserError: a name is no Python model of the repository.
    """
    models = {model.name: model for model in folders.models(model_repository)}
    python = {name: model for name, model in models.items() if configs.is_python(configs.read(model))}
    for name in names:
        if name not in python:
            found = "a model of another backend" if name in models else "no such model"
            raise UserError(
                f"--models {name}: expected a Python model of {model_repository}, got {found}. "
                f"It has: {', '.join(python) or 'none'}."
            )
    if not python:
        raise UserError(f"{model_repository}: expected Python models, got none. Pass --model-repository.")
    return [python[name] for name in dict.fromkeys(names)] if names else list(python.values())


def check(models: list[Path]) -> None:
    """Refuse models whose environment cannot be set.

    Raises:
        UserError: a config names its environment in words that this module does not write, or cannot be written.
    """
    for model in models:
        for config in configs.files(model):
            _without(config)
            check_writable(config.parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder that no file can be written to."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: expected a folder to write to, got: {error.strerror}. Choose another.") from None


def check_attached(models: list[Path], config_name: str | None, server_stub: Path) -> None:
    """Refuse environments that are missing, or whose Python is of another version than the stub that would run them.

    Triton itself says of the second that a module of the environment is not there.

    Args:
        server_stub: what runs models that have no stub of their own.
    Raises:
        UserError: the message names the model.
    """
    for model in models:
        named = configs.parameters(configs.read(model, config_name)).get(_PARAMETER)
        if named is None or "://" in named:  # an address that only Triton can read
            continue
        archive = Path(named.replace(_HERE, str(model)))
        if not archive.exists():
            raise UserError(f"{model.name}: expected its environment at {archive}, got none. Run `dualpath env pack`.")
        stub = model / STUB
        wanted, got = python_of(stub if stub.exists() else server_stub), _python_in(archive)
        if wanted and got and wanted != got:
            raise UserError(
                f"{model.name}: expected an environment with its stub's Python {wanted}, got Python {got}. "
                "Run `dualpath env pack` again, or `dualpath env remove`."
            )


def _python_in(archive: Path) -> str | None:
    """Return the Python version of an environment, packed or not, such as "3.12"; None if nothing near tells."""
    names: Iterable[str]
    if archive.is_dir():
        names = (path.relative_to(archive).as_posix() + "/" for path in archive.glob("lib/python3.*"))
    else:
        try:
            with tarfile.open(archive, "r|*") as members:
                names = [member.name for member in islice(members, 500)]
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{archive}: expected an environment's archive, got: {error}. Pack it again.") from None
    found = (re.match(r"(?:\./)?lib/python(3\.\d+)/", name) for name in names)
    return next((match[1] for match in found if match), None)


def attach(models: list[Path], archive: Path, stub: Path | None, output: Path | None = None) -> Path:
    """Make models run in an environment; return where its archive lies.

    Every file appears whole or not at all, and the configs, the CPU's and the GPU's, name the archive only once it and
    the stub are there.

    Args:
        archive: moved to its place.
        stub: of the archive's Python; None if the server's own fits.
        output: a place for the archive that all models share. Without one it lies in each model's folder, so that the
            repository can be moved.
    """
    places = [output.absolute()] if output else [model / ARCHIVE for model in models]
    for place in places:
        _put(place, partial(_link, archive))
        archive = place
    for model in models:
        if stub is None:
            (model / STUB).unlink(missing_ok=True)
        else:
            _put(model / STUB, partial(shutil.copyfile, stub), mode=0o755)
        _write_parameter(model, str(places[0]) if output else f"{_HERE}/{ARCHIVE}")
        if model / ARCHIVE not in places:
            (model / ARCHIVE).unlink(missing_ok=True)  # of an environment before
    return places[0]


def detach(models: list[Path]) -> list[Path]:
    """Make models run in the server's own Python again; return those that did not before.

    Removes the parameter, then the stub and the archive in the model's folder. A shared archive stays.
    """
    attached = [
        model
        for model in models
        if any(_without(config).text != Config.load(config).text for config in configs.files(model))
    ]
    for model in attached:
        _write_parameter(model, None)
        (model / STUB).unlink(missing_ok=True)
        (model / ARCHIVE).unlink(missing_ok=True)
    return attached


def _without(path: Path) -> Config:
    """Return a config without the parameter that this module writes.

    Raises:
        UserError: the parameter was written by hand.
    """
    config = Config.load(path)
    place = config.find("parameters", _PARAMETER)
    if place is None:
        return config
    value = config.message.parameters[_PARAMETER].string_value
    if f"parameters {config.text[place.start : place.end]}" != _written(value):
        raise UserError(f"{path}: expected no {_PARAMETER}, got one written by hand. Remove it first.")
    return config.remove("parameters", _PARAMETER)


def _written(value: str) -> str:
    literal = json.dumps(value, ensure_ascii=False)
    return f'parameters {{ key: "{_PARAMETER}" value {{ string_value: {literal} }} }}'


def _write_parameter(model: Path, value: str | None) -> None:
    for path in configs.files(model):
        config = _without(path)
        if value is not None:
            config = config.add(_written(value))
        _put(path, config.save, path.stat().st_mode)


def _put(place: Path, write: Callable[[Path], object], mode: int = 0o644) -> None:
    """Let `write` make a file beside its place, then move it there."""
    try:
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as folder:
            target = Path(folder) / place.name
            write(target)
            target.chmod(mode)
            target.replace(place)
    except OSError as error:
        raise UserError(
            f"{place}: expected a file to write, got: {error.strerror}. Make room or give rights."
        ) from None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
