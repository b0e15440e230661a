"""Hold every call that the device code makes against the real cuDF, CuPy and cuML, without a GPU.

The device code runs on pandas and NumPy in their place and each call is noted; the notes are then bound to the real
signatures. Calls of modules' functions, in `src` and `tests/gpu`, are read from the source as well. RAPIDS imports
without a GPU but cannot run: that the calls do what they should is not checked here.

Usage: make check-rapids
"""

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ["RAPIDS_NO_INITIALIZE"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "unit")]

import fake_triton  # noqa: E402

sys.modules["triton_python_backend_utils"] = fake_triton

import numpy as np  # noqa: E402
from fake_cuml import FakeCuml  # noqa: E402
from fake_rapids import Call, FakeDevice, FakeModule, on_host  # noqa: E402
from random_texts import random_texts  # noqa: E402
from rated import rated  # noqa: E402

from dualpath.bls import tensors  # noqa: E402
from dualpath.readability import device  # noqa: E402
from dualpath.readability.combine import combine  # noqa: E402
from dualpath.readability.excerpts import decode_weights  # noqa: E402
from dualpath.readability.features import FeatureCounter, WordLists  # noqa: E402
from dualpath.training import forest  # noqa: E402

LIBRARIES = ("cudf", "cuml", "cupy", "cupti", "nvforest")
CLASSES = ("CharacterNormalizer", "WordPieceVocabulary")
"""Of cuDF, from modules of their own."""
ASSUMED = "no signature to be had: only that it exists"


def main() -> int:
    """Print each call with the real signature; return 1 if one does not fit."""
    real = device.load_rapids()
    found = {*noted_calls(), *training_calls(), *written_calls()}
    called = {(call.owner, call.name) for call in found if call.n_positional >= 0}
    calls = sorted(call for call in found if call.n_positional >= 0 or (call.owner, call.name) not in called)
    verdicts = [verdict(call, real) for call in calls]
    for call, words in zip(calls, verdicts, strict=True):
        print(f"{call.owner + '.' + call.name:44} {given(call):28} {words}")
    failed = sum(words.startswith("NO: ") for words in verdicts)
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in ("cudf", "cuml", "cupy"))
    print(f"{versions}, Python {sys.version.split()[0]}: {len(calls)} calls, {failed} of them do not fit")
    return 1 if failed else 0


def noted_calls() -> set[Call]:
    """Run all of the device code on a fake device."""
    fake = FakeDevice()
    rapids = fake.rapids()
    repository = ROOT / "model_repository"
    excerpts = random_texts(500, seed=3, any_character=True)
    encoder = device.DeviceTokenEncoder(repository / "bert-large" / "1" / "tokenizer.json", rapids)
    encoder.pad(encoder.encode(excerpts))
    encoder.windows(excerpts)
    lists = WordLists.load(repository / "cuml" / "1" / "word_lists.json")
    features = device.DeviceFeatureCounter(lists, rapids).features(excerpts)
    np.testing.assert_array_equal(on_host(features), FeatureCounter(lists).features(excerpts))  # with this pandas, too
    np.stack(list(features))  # as the orchestrator collates rows

    with mock.patch.dict(sys.modules, cupy=FakeModule(fake, "cupy", np)):
        scores = tensors.own(tensors.to_array(fake_triton.Tensor.of("SCORE", fake.array([[0.5]], np.float32))), True)
        tensors.to_tensor("SCORE", combine(decode_weights(scores), scores[:, 0], scores[:, 0])[:, None])
    return set(fake.calls)


def training_calls() -> set[Call]:
    """Fit, export and check a forest on a double of cuML."""
    cuml = FakeCuml()
    with mock.patch.dict(sys.modules, cuml=cuml, cupy=cuml), TemporaryDirectory() as folder:
        corpus = rated(40, 10)
        table = forest.ForestTable.from_excerpts(corpus.excerpts, corpus.targets)
        forest.write_forest(forest.fit_forest(table, "cuml"), table, Path(folder))
    return set(cuml.calls)


def written_calls() -> Iterator[Call]:
    """Read the calls of the libraries' functions from the source, and the names that it imports from them."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests" / "gpu").rglob("*.py")]:
        names: dict[str, str] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
                names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                yield from (Call(node.module, alias.name, -1) for alias in node.names)
            elif isinstance(node, (ast.Call, ast.Attribute)):
                function = node.func if isinstance(node, ast.Call) else node
                root, _, rest = ast.unparse(function).partition(".")
                if rest and names.get(root, "").split(".")[0] in LIBRARIES and re.fullmatch(r"[\w.]+", rest):
                    owner, _, name = f"{names[root]}.{rest}".rpartition(".")
                    if isinstance(node, ast.Call):
                        keywords = sorted(keyword.arg or "**" for keyword in node.keywords)
                        yield Call(owner, name, len(node.args), tuple(keywords))
                    else:
                        yield Call(owner, name, -1, ())


def verdict(call: Call, real: device.Rapids) -> str:
    """Return the real signature if the call fits it, else "NO: " and why."""
    try:
        target = getattr(real, call.name) if call.name in CLASSES else getattr(find(call.owner, real), call.name)
    except (AttributeError, ImportError) as error:
        return f"NO: {error}"
    if call.n_positional < 0:
        return "is there"
    try:
        signature, bound = signature_of(target), [None] * call.n_positional
    except ValueError:
        return ASSUMED
    if signature.parameters and next(iter(signature.parameters)) == "self":
        bound.append(None)
    try:
        signature.bind(*bound, **dict.fromkeys(call.keywords))
    except TypeError as error:
        return f"NO: {error}; it is {signature}"
    if inspect.isclass(target) and (strange := set(call.keywords) - set(_parameters(target))):
        return f"NO: got an unexpected keyword argument {min(strange)!r}; no __init__ up to its last base has it"
    return str(signature)


def _parameters(made: type) -> Iterator[str]:
    """Name what a class and its bases take: **kwargs of the first would let any word pass."""
    for base in made.__mro__[:-1]:
        if "__init__" in base.__dict__:
            yield from inspect.signature(base.__dict__["__init__"]).parameters


def find(owner: str, real: device.Rapids) -> Any:
    """Return the real module or class of a name such as "cudf.Series.str"."""
    if owner == "cudf.Series.str":
        return importlib.import_module("cudf.core.accessors.string").StringMethods
    if owner.removeprefix("cudf.") in CLASSES:
        return getattr(real, owner.removeprefix("cudf."))
    module, *rest = owner.split(".")
    found: Any = importlib.import_module(module)
    for part in rest:
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    return found


def signature_of(target: Any) -> inspect.Signature:
    """Return a signature; of compiled code, the one that opens its documentation; ValueError if there is none."""
    if hasattr(target, "nin"):  # a ufunc
        arguments = [f"x{number}" for number in range(1, target.nin + 1)]
        return _parsed(f"{', '.join(arguments)}, out=None, **kwargs")
    try:
        return inspect.signature(target)
    except ValueError:
        written = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?\n", (target.__doc__ or "") + "\n")
        if not written:
            raise
        return _parsed(written[1])


def _parsed(arguments: str) -> inspect.Signature:
    scope = SimpleNamespace()
    try:
        exec(f"def parsed({re.sub(r'=[^,]+', '=None', arguments)}): pass", scope.__dict__)
    except SyntaxError:
        raise ValueError(arguments) from None
    return inspect.signature(scope.parsed)


def given(call: Call) -> str:
    """Show a call's arguments: (_, axis)."""
    if call.n_positional < 0:
        return "read"
    return f"({', '.join((*'_' * call.n_positional, *(f'{keyword}=' for keyword in call.keywords)))})"


if __name__ == "__main__":
    sys.exit(main())
