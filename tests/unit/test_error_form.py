"""Every message that a user sees has one form: `<what>: expected <what>, got <what>. <next step>.`"""

import ast
import builtins
import re

import pytest

from paths import ROOT

SOURCE = ROOT / "src" / "dualpath"
FORM = re.compile(r"\S.*?: expected .+, got:? .*[.\x00] (\S.*)?[.\x00]", re.DOTALL)
HANDED_ON = re.compile(r"(\x00: )*\x00(\.? [A-Z`].+\.)?")
"""A message of another error, or of a list of faults, which are in the form themselves."""
PARTS = {
    "compare/tensors.py": {"BadValue"},  # what came before it says the place, and what to do
    "compare/inputs.py": {"BadValue"},
    "repository/facts.py": {"TypeError"},
    "bls/config.py": {"ValueError"},
    "bls/testing/config.py": {"ValueError"},
    "convert/plan.py": {"ValueError"},
    "compare/breakdown/metrics.py": {"ValueError"},
    "compare/breakdown/timeline.py": {"_NotTraced"},  # why a part of a report is left out
    "serving/watch/plant.py": {"MendFailed"},  # the watchdog says what comes next
}
"""Messages that are a part of another, which has the form."""
NO_ERRORS = {"Leave", "CallerGone", "AttributeError", "KeyError"}
"""What no user is shown."""
TRITONS = {"InferenceServerException", "TritonError", "TritonModelException", "_Wrong"}
"""Errors in Triton's words, which the fake of its module says as they are."""


def as_text(node):
    """Return a message as it is written, each value that it shows as \\0."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(value.value if isinstance(value, ast.Constant) else "\0" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return as_text(left) + as_text(right)
        case ast.IfExp(body=body, orelse=orelse):
            return as_text(body) if isinstance(orelse, ast.Attribute | ast.Name) else as_text(orelse)
    return "\0"


def errors(sources):
    """Return the names of all exceptions, Python's and the package's own."""
    names = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    classes = [node for tree in sources.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while found := {each.name for each in classes if {getattr(base, "id", "") for base in each.bases} & names} - names:
        names |= found
    return names - NO_ERRORS - TRITONS


def is_shown(call):
    """Tell if a call prints an error, or complains of a row. "dualpath: interrupted" is none."""
    is_error = as_text(call.args[0]).startswith("dualpath: ") and "interrupted" not in as_text(call.args[0])
    return is_error or getattr(call.func, "id", "") == "_complain"


def messages():
    files = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
    sources = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    known = errors(sources)
    for file, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if (name in known - PARTS.get(file, set())) or is_shown(node):
                    yield pytest.param(as_text(node.args[0]).removeprefix("dualpath: "), id=f"{file}:{node.lineno}")


@pytest.mark.parametrize("message", list(messages()))
def test_message_says_what_was_expected_what_came_and_what_to_do(message):
    assert FORM.fullmatch(message) or HANDED_ON.fullmatch(message), message


@pytest.mark.parametrize(
    "message",
    ["a: expected b, found c. Do d.", "expected b, got c. Do d.", "a: expected b, got c.", "a is not b; do c"],
)
def test_other_forms_are_refused(message):
    assert not FORM.fullmatch(message)
