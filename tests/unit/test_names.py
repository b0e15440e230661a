"""A class's name means one thing in the package."""

import ast
from collections import defaultdict

from paths import ROOT

AS_TRITON_NAMES_THEM = {"Tensor", "TritonPythonModel"}
"""The fake of Triton's module, and what Triton looks for in a model.py."""


def test_no_two_public_classes_have_the_same_name():
    found = defaultdict(list)
    for path in sorted((ROOT / "src" / "dualpath").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in AS_TRITON_NAMES_THEM} == {}
