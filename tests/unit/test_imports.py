"""Imports go one way, those within functions and for types alone included."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from paths import ROOT

PACKAGE = ROOT / "src" / "dualpath"
MODULES = {
    ".".join(part for part in path.relative_to(ROOT / "src").with_suffix("").parts if part != "__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(path):
    """Give the package's modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for name in (f"{node.module}.{each.name}" for each in node.names):
                yield name if name in MODULES else node.module


def folder(module):
    """Return the folder right below the package that a module is in; "" for the modules beside the folders."""
    parts = MODULES[module].relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "cli" if parts[0] == "__main__.py" else ""


@pytest.mark.parametrize("of", [str, folder], ids=["modules", "folders"])
def test_no_imports_go_in_a_circle(of):
    graph = {of(module): set() for module in MODULES}
    for module, path in MODULES.items():
        graph[of(module)] |= {of(other) for other in imported(path)} - {of(module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
