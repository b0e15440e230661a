"""Making and packing an environment, as far as it goes without installing anything."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.errors import UserError
from dualpath.serving import installation, packing
from dualpath.serving.installation import PYTHON, STUB
from paths import REPOSITORY

OTHER = "3.12" if PYTHON == "3.11" else "3.11"


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "model_repository" / "preprocess"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"\n')
    return [folder]


@pytest.fixture
def an_environment(tmp_path):
    """an_environment(mark, python) -> a folder that looks like an environment, with a Python that only answers."""

    def make(mark, python=PYTHON):
        folder = tmp_path / "an_environment"
        package = folder / "lib" / f"python{python}" / "site-packages" / "dualpath" / "__init__.py"
        package.parent.mkdir(parents=True)
        package.touch()
        (folder / "bin").mkdir()
        if mark == "pyvenv.cfg":
            (folder / mark).write_text("home = /usr/bin\n")
        else:
            (folder / mark).mkdir()
            (folder / mark / "history").touch()
        library = tmp_path / f"libpython{python}.so.1.0"
        library.write_text("a library")
        answer = json.dumps({"version": f"{python}.9", "base": "/usr", "library": str(library)})
        (folder / "bin" / "python").write_text(
            f"#!/bin/sh\ncase \"$3\" in *json*) echo '{answer}';; *) echo {package};; esac\n"
        )
        (folder / "bin" / "python").chmod(0o755)
        return folder

    return make


def members(archive):
    with tarfile.open(archive) as packed:
        return set(packed.getnames())


def test_models_import_what_the_environment_holds_and_no_more():
    loaded = subprocess.run(
        [sys.executable, "-c", _IMPORT_MODELS, str(REPOSITORY)], capture_output=True, text=True, check=True
    )
    assert set(loaded.stdout.split()) == {"dualpath", *packing.NEEDS}


_IMPORT_MODELS = """
import runpy, sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
before = set(sys.modules)
sys.modules["triton_python_backend_utils"] = ModuleType("triton_python_backend_utils")
for model in Path(sys.argv[1]).glob("*/1/model.py"):
    runpy.run_path(str(model))
print(*{name.partition(".")[0] for name in set(sys.modules) - before} & packages_distributions().keys())
"""


def test_a_virtual_environment_is_packed_as_it_is(models, an_environment):
    packed = packing.pack(models, folder=an_environment("pyvenv.cfg"))
    assert packed.archive == models[0] / "environment.tar.gz"
    assert packed.needs == Path("/usr")
    assert (packed.python, packed.own_stub) == (f"{PYTHON}.9", False)
    assert members(packed.archive) >= {
        "pyvenv.cfg",
        "bin/activate",
        f"lib/python{PYTHON}/site-packages/dualpath/__init__.py",
    }
    assert packed.archive.stat().st_mode & 0o777 == 0o644


def test_a_conda_environment_is_packed_by_conda_pack_and_brings_its_python(models, an_environment):
    packed = packing.pack(models, folder=an_environment("conda-meta"))
    assert packed.needs is None
    assert members(packed.archive) >= {"bin/activate", "bin/conda-unpack", "conda-meta/history"}


def test_another_python_brings_its_stub_and_its_library(models, an_environment, tmp_path):
    stub = tmp_path / "a_stub"
    stub.write_text("a stub")
    packed = packing.pack(models, folder=an_environment("pyvenv.cfg", OTHER), stub=stub)
    assert packed.own_stub
    assert (models[0] / STUB).read_text() == "a stub"
    assert f"lib/libpython{OTHER}.so.1.0" in members(packed.archive)


def test_the_stub_is_the_embedded_servers_own_for_that_python(models, an_environment):
    pytest.importorskip("pytriton", reason="needs dualpath[embedded]")
    packing.pack(models, folder=an_environment("pyvenv.cfg", OTHER), server="embedded")
    assert installation.python_of(models[0] / STUB) == OTHER


def test_another_python_without_a_stub_for_it_is_refused(models, an_environment, tmp_path, monkeypatch):
    installed = installation.Installation(tmp_path / "tritonserver", tmp_path, tmp_path / "python" / STUB)
    monkeypatch.setattr(installation, "find", lambda server: installed)
    folder = an_environment("pyvenv.cfg", OTHER)
    with pytest.raises(UserError, match=f"expected a stub for Python {OTHER}, got one for Python {PYTHON} only"):
        packing.pack(models, folder=folder)
    with pytest.raises(UserError, match=f"--stub .*nowhere: expected Triton's {STUB}, got no such file"):
        packing.pack(models, folder=folder, stub=tmp_path / "nowhere")


def test_another_python_without_its_shared_library_is_refused(models, an_environment, tmp_path):
    folder = an_environment("pyvenv.cfg", OTHER)
    (tmp_path / f"libpython{OTHER}.so.1.0").rename(tmp_path / STUB)
    with pytest.raises(
        UserError, match=rf"expected its shared library .*, got none\. .* `apt install libpython{OTHER}`"
    ):
        packing.pack(models, folder=folder, stub=tmp_path / STUB)


def test_a_missing_packer_is_named_with_its_command(models, an_environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "venv_pack", None)
    monkeypatch.setitem(sys.modules, "conda_pack", None)
    with pytest.raises(UserError, match=r"package venv_pack: expected .* `pip install 'dualpath\[pack\]'`"):
        packing.pack(models)
    with pytest.raises(UserError, match="package conda_pack"):
        packing.pack(models, folder=an_environment("conda-meta"))


def test_output_must_be_an_archive_that_can_be_written(models, tmp_path):
    with pytest.raises(UserError, match=r"--output: expected a name that ends in \.tar\.gz, got .*env\.zip"):
        packing.pack(models, output=tmp_path / "env.zip")
    with pytest.raises(UserError, match=r"nowhere: expected a folder to write to"):
        packing.pack(models, output=tmp_path / "nowhere" / "env.tar.gz")


def test_python_must_run_and_be_one_that_is_supported(models, tmp_path):
    with pytest.raises(UserError, match="--python no-such-python: expected a Python interpreter, got none that runs"):
        packing.pack(models, python="no-such-python")
    with pytest.raises(UserError, match="got none that runs"):
        packing.pack(models, python="false")
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\necho \'{"version": "3.9.18", "base": "/usr", "library": "/usr/lib/none.so"}\'\n')
    old.chmod(0o755)
    with pytest.raises(UserError, match=r"expected Python 3\.11 or 3\.12, got 3\.9\.18"):
        packing.pack(models, python=str(old))


def test_environment_must_hold_dualpath_whole(models, tmp_path):
    with pytest.raises(UserError, match="expected a virtual or Conda environment, got none"):
        packing.pack(models, folder=tmp_path)
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    with pytest.raises(UserError, match="expected Dualpath in it, got ModuleNotFoundError: No module named 'dualpath'"):
        packing.pack(models, folder=empty)
    (empty / "lib" / f"python{PYTHON}" / "site-packages" / "here.pth").write_text(f"{_paths()}\n")
    with pytest.raises(UserError, match=r"expected Dualpath in it, got an editable install, .* without --editable"):
        packing.pack(models, folder=empty)


def _paths():
    import numpy
    import tokenizers

    import dualpath

    return "\n".join(str(Path(module.__file__).parent.parent) for module in (dualpath, numpy, tokenizers))


def test_a_requirement_that_cannot_be_had_is_named_and_nothing_is_written(models):
    with pytest.raises(UserError, match=r"expected an environment by .*, got: ERROR: .*no/such/project"):
        packing.pack(models, requirements=["./no/such/project"])
    assert [path.name for path in models[0].iterdir()] == ["config.pbtxt"]


def test_commands_say_what_they_did_and_undo_it(models, an_environment):
    before = (models[0] / "config.pbtxt").read_text()
    where = ("--model-repository", str(models[0].parent))
    done = CliRunner().invoke(app, ["env", "pack", *where, "--environment", str(an_environment("pyvenv.cfg"))])
    assert done.exit_code == 0, done.output
    assert f"Python   {PYTHON}.9\nmodels   preprocess\nIt links to the Python in /usr, which must" in done.output
    done = CliRunner().invoke(app, ["env", "pack", "--json", *where, "--environment", "an_environment", "--with", "x"])
    assert "expected no --python and no --with" in str(done.exception)
    assert CliRunner().invoke(app, ["env", "remove", *where]).output == "removed from preprocess\n"
    assert (models[0] / "config.pbtxt").read_text() == before
    assert CliRunner().invoke(app, ["env", "remove", *where]).output == "nothing to remove\n"
