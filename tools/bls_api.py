"""Write docs/bls-api.md from the docstrings of `dualpath.bls` and `dualpath.bls.testing`."""

import ast
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from dualpath import bls
from dualpath.bls import testing

PAGE = Path(__file__).resolve().parent.parent / "docs" / "bls-api.md"
HEAD = """# API reference of dualpath.bls

Generated from the docstrings by `python tools/bls_api.py`. [The toolkit](bls.md) shows how the parts work together.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_module(module) for module in (bls, testing))


def _module(module: ModuleType) -> str:
    parts = [f"\n## {module.__name__}\n"]
    for name in sorted(module.__all__, key=str.lower):
        parts.append(_entry(name, getattr(module, name)))
    return "".join(parts)


def _entry(name: str, entry: Any) -> str:
    if not inspect.isroutine(entry) and not isinstance(entry, type):
        return f"\n### {name}\n\n{_said_below(name)}\n"
    if not inspect.isclass(entry):
        return _part("###", name, _signature(name, entry), entry)
    is_error = issubclass(entry, BaseException)
    text = _part("###", name, _signature(name, entry) if _is_made_by_users(entry) else "", entry)
    if is_error:
        text += f"\nA subclass of `{entry.__mro__[1].__name__}`.\n"
    for each, member in vars(entry).items():
        if not each.startswith("_") and inspect.getdoc(member):
            if isinstance(member, property):
                text += _part("####", f"{name}.{each}", "", member)
            elif inspect.isfunction(member):
                text += _part("####", f"{name}.{each}", _signature(f"{name}.{each}", member), member)
    return text


def _said_below(name: str) -> str:
    """Return the text that stands below the definition of a type's name."""
    for path in sorted(Path(bls.__file__).parent.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for definition, below in itertools.pairwise(body):
            if isinstance(definition, ast.Assign) and ast.unparse(definition.targets[0]) == name:
                return _prose(str(ast.literal_eval(below.value))) if isinstance(below, ast.Expr) else ""
    return ""


def _part(level: str, title: str, signature: str, entry: Any) -> str:
    code = f"\n```python\n{signature}\n```\n" if signature else ""
    return f"\n{level} {title}\n{code}\n{_prose(inspect.getdoc(entry) or '')}\n"


def _is_made_by_users(entry: type) -> bool:
    return "Args:" in (inspect.getdoc(entry) or "") or entry is bls.ModelConfig


def _signature(name: str, entry: Any) -> str:
    """Return how a function is called, one argument a line if it is long."""
    signature = inspect.signature(entry)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    returns = inspect.Signature.empty if inspect.isclass(entry) else signature.return_annotation
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    text = re.sub(r"dualpath\.bls\.\w+\.|typing\.|collections\.abc\.", "", text)
    text = re.sub(r"([:>] )'([^']*)'", r"\1\2", text)  # annotations are strings
    text = f"{'await ' if inspect.iscoroutinefunction(entry) else ''}{name}{text}"
    if len(text) <= 100:
        return text
    arguments = re.split(r", (?=\*?\*?\w+: |\*, )", text[text.index("(") + 1 : text.rindex(")")])
    return "\n".join([text[: text.index("(") + 1], *(f"    {each}," for each in arguments), text[text.rindex(")") :]])


def _prose(doc: str) -> str:
    """Turn a docstring's sections into Markdown: lists of arguments, attributes and errors."""
    lines, section = [], ""
    for line in doc.splitlines():
        if match := re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line):
            section = match[1]
            lines += ["", f"**{section}**", ""]
        elif section and re.match(r"    \S", line):
            name, colon, rest = line.strip().partition(": ")
            is_item = colon and section != "Returns" and re.fullmatch(r"[\w, ]+", name)
            lines.append(f"- `{name}`: {rest}" if is_item else line.strip())
        else:
            lines.append(f"  {line.strip()}" if section and line.strip() else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
