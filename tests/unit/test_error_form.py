"""Every message that a user sees has one form: `<what>: expected <what>, got <what>. <next step>.`"""

import ast
import re

import pytest

from paths import ROOT

SOURCE = ROOT / "src" / "dualpath"
ERRORS = {"UserError", "ConfigError", "InvalidInput", "StartFailed", "ServerFailed"}
FORM = re.compile(r"\S.*?: expected .+, got:? .*[.\x00] (\S.*)?[.\x00]", re.DOTALL)
HANDED_ON = re.compile(r"(\x00: )*\x00(\. .+\.)?")
"""A message of another error, or of a list of faults, which are in the form themselves."""


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


def messages():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in ERRORS:
                    yield pytest.param(as_text(node.args[0]), id=f"{path.relative_to(SOURCE)}:{node.lineno}")


@pytest.mark.parametrize("message", list(messages()))
def test_message_says_what_was_expected_what_came_and_what_to_do(message):
    assert FORM.fullmatch(message) or HANDED_ON.fullmatch(message), message


@pytest.mark.parametrize(
    "message",
    ["a: expected b, found c. Do d.", "expected b, got c. Do d.", "a: expected b, got c.", "a is not b; do c"],
)
def test_other_forms_are_refused(message):
    assert not FORM.fullmatch(message)
