"""Which models a BLS model calls, as far as its model.py says so, and whether they are there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from dualpath.convert.findings import RepositoryFault
from dualpath.convert.models import Models, RepositoryModel

CALLS = ("Child", "BatchedChild", "InferenceRequest")
"""What calls a model: the toolkit's children by their first argument, Triton's request by `model_name`."""


def check_children(model: RepositoryModel, models: Models) -> Iterator[RepositoryFault]:
    """Give the calls in a model.py whose model is not in the repository: Triton would notice at the first request."""
    if model.message.backend != "python":
        return
    for version in model.versions:
        file = model.folder / str(version) / (model.message.default_model_filename or "model.py")
        if not file.is_file():
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError as error:
            yield RepositoryFault(
                file, error.lineno or 1, model.name, f"expected Python, got an error: {error.msg}. Correct it."
            )
            continue
        yield from _calls(tree, file, model, models)


def _calls(tree: ast.Module, file: Path, model: RepositoryModel, models: Models) -> Iterator[RepositoryFault]:
    constants = dict(_constants(tree))
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or _called(call.func) not in CALLS:
            continue
        name = _model_name(call)
        child = constants.get(ast.unparse(name)) if isinstance(name, ast.Name | ast.Attribute) else name
        if not isinstance(child, ast.Constant) or not isinstance(child.value, str):
            continue  # made at run time
        if models.find(child.value) is None:
            yield RepositoryFault(
                file,
                call.lineno,
                model.name,
                f"{_called(call.func)}: expected a model in {models.repository}, got {child.value!r}, which is not "
                "there. Correct the name, or add the model.",
            )


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _model_name(call: ast.Call) -> ast.expr | None:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if _called(call.func) == "InferenceRequest":
        return named.get("model_name")
    return call.args[0] if call.args else named.get("name")


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Give names that are assigned once, such as NAME and self.name."""
    seen: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            seen.setdefault(ast.unparse(node.targets[0]), []).append(node.value)
    yield from ((name, values[0]) for name, values in seen.items() if len(values) == 1)
