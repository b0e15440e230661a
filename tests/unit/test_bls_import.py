"""The toolkit outside Triton."""

import ast
import subprocess
import sys

from paths import ROOT


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_toolkit_can_be_imported_outside_triton():
    done = run("import dualpath.bls, sys; print('triton_python_backend_utils' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_calling_a_child_outside_triton_says_where_it_works():
    done = run("from dualpath.bls.triton import pb_utils; pb_utils.Tensor")
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: triton_python_backend_utils: expected a process of Triton's Python backend, got another one. "
        "Serve the model with Triton, or test it with dualpath.bls.testing."
    )


def test_the_toolkit_imports_numpy_and_itself_alone_and_its_fake_the_reader_of_configs():
    package = ROOT / "src" / "dualpath"
    reader = {package / "repository/pbtxt_fields.py": {"dualpath.errors"}, package / "errors.py": set()}
    toolkit = {path: set() for path in (package / "bls").rglob("*.py")}
    toolkit[package / "bls/testing/config.py"] = {"dualpath.repository.pbtxt_fields"}
    for path, others in sorted((reader | toolkit).items()):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                allowed = name.partition(".")[0] in {*sys.stdlib_module_names, "numpy", "cupy"} or name in others
                assert allowed or f"{name}.".startswith("dualpath.bls."), f"{path.name} imports {name}"
