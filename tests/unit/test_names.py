"""A public name means one thing in the package."""

import ast
from collections import defaultdict

from paths import ROOT

PACKAGE = ROOT / "src" / "dualpath"
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
AS_OTHERS_NAME_THEM = {
    *("Tensor", "TritonPythonModel", "serve"),  # Triton's module and its fake; `serve` is also a command
    *("Array", "Arrays", "Floats", "T"),  # NumPy's arrays, and any type
    "Report",  # what gets lines
    "app",  # what typer wants
}


def commands():
    """Return the names of the commands; each does what the package's function of that name does."""
    return {name.removeprefix("cli/").removesuffix(".py") for name in TREES if name.startswith("cli/")}


def public(tree):
    """Give a file's classes, types and constants."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def imports(tree):
    """Give the names that a file imports from the package's modules, each with the module and its own name there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dualpath."):
            for each in node.names:
                yield each.asname or each.name, node.module, each.name


def home(module, name):
    """Return the module that defines a name, which another may hand on."""
    file = module.removeprefix("dualpath.").replace(".", "/")
    tree = TREES.get(f"{file}.py") or TREES[f"{file}/__init__.py"]
    return next((home(other, its) for known, other, its in imports(tree) if known == name), module)


def test_no_two_classes_types_or_constants_have_the_same_name():
    found = defaultdict(set)
    for file, tree in TREES.items():
        for name in public(tree):
            if not name.startswith("_") and name not in AS_OTHERS_NAME_THEM:
                found[name].add(file)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_name_is_imported_from_two_places():
    """Many modules have a `read`, which is called by its module's name too: `configs.read`."""
    found = defaultdict(set)
    for tree in TREES.values():
        for name, module, its in imports(tree):
            if name not in AS_OTHERS_NAME_THEM | commands():
                found[name].add(home(module, its))
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
