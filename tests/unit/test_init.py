"""`dualpath init`: the model repository of an installed package."""

import subprocess
import tomllib

import pytest
from typer.testing import CliRunner

from dualpath.cli import app
from dualpath.cli.build import FILES, init
from dualpath.errors import UserError
from paths import REPOSITORY, ROOT


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_repository_of_the_checkout_is_written_without_artifacts(tmp_path):
    outcome = CliRunner().invoke(app, ["init", str(tmp_path / "new")])
    assert outcome.exit_code == 0, outcome.output
    written = files(tmp_path / "new")
    assert {path.name for path in written} == {"config.pbtxt", "gpu.pbtxt", "gpu-models.pbtxt", "model.py", ".gitkeep"}
    assert written == {path: (REPOSITORY / path).read_bytes() for path in written}
    assert f"Next: dualpath build --model-repository {tmp_path}/new, then dualpath serve" in outcome.output.replace(
        "\n", " "
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="which files are written by hand is what git tracks")
def test_every_file_that_git_tracks_is_written(tmp_path):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    init(tmp_path)
    assert sorted(map(str, files(tmp_path))) == sorted(tracked)


def test_the_wheel_holds_what_init_writes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["dualpath"]
    assert [name for name in data if name.startswith("model_repository/")] == [
        f"model_repository/{pattern}" for pattern in FILES
    ]


def test_a_folder_with_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "own.txt").write_text("own")
    with pytest.raises(UserError, match=r"expected an empty folder, got one with files\. Name another folder\.$"):
        init(tmp_path)
    assert files(tmp_path).keys() == {(tmp_path / "own.txt").relative_to(tmp_path)}
    with pytest.raises(UserError, match=r"own\.txt: expected a folder to write to, got 'File exists'"):
        init(tmp_path / "own.txt")
