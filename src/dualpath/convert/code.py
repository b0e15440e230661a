"""Name Python variables after tensors and models, and lay code out as formatters do: in lines that stay as they are at
88 characters and at more."""

from __future__ import annotations

import builtins
import json
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 88
RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "request", "bls", "config"})
"""What a variable in a model.py must not be called."""
METHODS = RESERVED | {"pipeline", "graph", "initialize", "execute", "finalize"}
"""What an attribute of the model must not be called."""


@dataclass(frozen=True)
class Brackets:
    """Something in brackets: what stands before and behind, and the parts, of which a dict's have keys.

    `Brackets("f(", (("", "x"),), ")")` is "f(x)".
    """

    opening: str
    parts: tuple[tuple[str, Code], ...]
    closing: str


Code = str | Brackets


def call(function: str, *arguments: Code, **named: Code) -> Brackets:
    """Return a call."""
    parts = [*(("", argument) for argument in arguments), *((f"{name}=", value) for name, value in named.items())]
    return Brackets(f"{function}(", tuple(parts), ")")


def mapping(items: Sequence[tuple[str, Code]]) -> Brackets:
    """Return a dict with texts as keys."""
    return Brackets("{", tuple((f"{text(key)}: ", value) for key, value in items), "}")


def text(value: str) -> str:
    """Return a string in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def texts(values: Sequence[str]) -> Brackets:
    """Return a tuple of strings."""
    return Brackets("(", tuple(("", text(value)) for value in values), ",)" if len(values) == 1 else ")")


def names(variables: Sequence[Code]) -> Brackets:
    """Return a tuple of variables."""
    return Brackets("(", tuple(("", variable) for variable in variables), ")")


def assign(targets: Sequence[Code], awaited: Code, indent: int) -> list[str]:
    """Return the lines that await something and unpack it into variables."""
    flat = f"{_flat(names(targets))[1:-1]} = await "
    first, *rest = lay_out(awaited, indent, flat)
    if len(first) <= WIDTH:
        return [first, *rest]
    *lines, _ = lay_out(names(targets), indent, tall=True)
    return [*lines, *lay_out(awaited, indent, ") = await ")]


def give_back(variables: Sequence[str], indent: int) -> list[str]:
    """Return the lines that return one variable or several."""
    flat = f"{' ' * indent}return {', '.join(variables)}"
    return [flat] if len(flat) <= WIDTH else lay_out(names(variables), indent, "return ", tall=True)


def lay_out(code: Code, indent: int, before: str = "", after: str = "", tall: bool = False) -> list[str]:
    """Return the lines of a piece of code.

    Args:
        indent: spaces before the first line.
        before, after: what stands on the same line, such as "x = await " and ":".
        tall: give each part a line, even if all fit on one.
    """
    flat = f"{' ' * indent}{before}{_flat(code)}{after}"
    if isinstance(code, str) or not code.parts or (len(flat) <= WIDTH and not tall):
        return [flat]
    # Formatters put no comma behind a lone mapping. Without one they would join it again if it were not tall.
    [*_, (_, last)] = code.parts
    lone_mapping = len(code.parts) == 1 and isinstance(last, Brackets) and last.opening == "{"
    lines = [f"{' ' * indent}{before}{code.opening}"]
    for key, part in code.parts:
        lines += lay_out(part, indent + 4, key, "" if lone_mapping else ",", lone_mapping)
    return [*lines, f"{' ' * indent}{code.closing.removeprefix(',')}{after}"]


def _flat(code: Code) -> str:
    if isinstance(code, str):
        return code
    return code.opening + ", ".join(key + _flat(part) for key, part in code.parts) + code.closing


def identifiers(names: Iterable[str], taken: Iterable[str] = RESERVED) -> dict[str, str]:
    """Return a variable's name for each name, all different: "BERT-Ids" -> "bert_ids"."""
    used = set(taken)
    chosen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        chosen[name] = free(identifier(name), used)
        used.add(chosen[name])
    return chosen


def identifier(name: str) -> str:
    """Return a name in Python's usual form, such as "input_0" for "INPUT__0"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W|_", " ", name).split()
    joined = "_".join(words).lower()
    return joined if joined.isidentifier() else f"tensor_{joined}".rstrip("_")


def free(base: str, used: Iterable[str]) -> str:
    """Return the name, or with a number after it the first that is not used."""
    used = set(used)
    if base not in used:
        return base
    if f"{base}_" not in used and base in RESERVED:
        return f"{base}_"
    return next(name for name in (f"{base}_{i}" for i in range(2, len(used) + 3)) if name not in used)
