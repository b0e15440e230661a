"""Names of Python variables after those of tensors and models."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "request", "bls", "config"})
"""What a variable in a model.py must not be called."""
METHODS = RESERVED | {"pipeline", "graph", "initialize", "execute", "finalize"}
"""What an attribute of the model must not be called."""


def identifiers(names: Iterable[str], taken: Iterable[str] = RESERVED) -> dict[str, str]:
    """Return a variable's name for each name, all different: "BERT-Ids" -> "bert_ids"."""
    used = set(taken)
    chosen: dict[str, str] = {}
    for name in names:
        if name in chosen:
            continue
        base = identifier(name)
        chosen[name] = free(base, used)
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
