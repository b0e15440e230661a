"""Read the fields of a protobuf text with the place of each: what `text_format` forgets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dualpath.errors import UserError

BYTE_ORDER_MARK = "\ufeff"
# Triton's own parser: no other character is white space, and only a line feed ends a line.
_SPACE = re.compile(r"(?:[ \t\r\n\v\f]+|#[^\n]*)*")
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_STRING = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"' + r"|'(?:[^'\\\n]|\\[^\n])*'")
SCALAR = re.compile(
    r"(-\s*)?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?|[A-Za-z_]\w*)(?![\w.])", re.ASCII
)
_CLOSING = {"{": "}", "<": ">"}


class ConfigSyntaxError(UserError):
    """A config is not a protobuf text of a ModelConfig. The message gives file, line and column.

    Attributes:
        line, column: of the place, both from 1.
    """

    def __init__(self, source: str, line: int, column: int, reason: str) -> None:
        super().__init__(f"{source}:{line}:{column}: {reason}")
        self.line, self.column = line, column


@dataclass(frozen=True)
class Value:
    """One value: `text[start:end]`, braces and quotes included.

    Attributes:
        fields: of a message; None for a scalar.
        comma: where the comma stands that follows it in a list.
    """

    start: int
    end: int
    fields: tuple[Field, ...] | None = None
    comma: int | None = None


@dataclass(frozen=True)
class Field:
    """One field as it is written, `text[start:end]`, the separator after it included.

    Attributes:
        values: one, unless they stand in square brackets.
    """

    name: str
    start: int
    end: int
    values: tuple[Value, ...]
    is_list: bool = False


def place(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1, columns in characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def strings(text: str) -> list[str]:
    """Return the strings that a value consists of, which stand side by side, each in its quotes."""
    found, at = [], 0
    while match := _STRING.match(text, at):
        found.append(match[0])
        space = _SPACE.match(text, match.end())
        at = space.end() if space else match.end()
    return found


class FieldReader:
    """Reads a text from left to right. Separators between fields may be left out, as Triton allows."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._move(len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0)

    def read(self) -> tuple[Field, ...]:
        """Return the text's fields.

        Raises:
            ConfigSyntaxError: it is not in protobuf's text format.
        """
        fields = self._fields("")
        if self._at < len(self._text):
            raise self._expected("a field's name")
        return fields

    def _fields(self, closing: str) -> tuple[Field, ...]:
        fields = []
        while name := NAME.match(self._text, self._at):
            start = name.start()
            self._move(name.end())
            has_colon = self._take(":")
            is_list = self._next() == "["
            values, end = self._values(has_colon)
            if self._next() in (",", ";"):
                self._move(self._at + 1)
                end = self._last
            fields.append(Field(name[0], start, end, values, is_list))
        if closing and not self._take(closing):
            raise self._expected(f"a field's name or {closing!r}")
        return tuple(fields)

    def _values(self, has_colon: bool) -> tuple[tuple[Value, ...], int]:
        if not self._take("["):
            value = self._value(has_colon)
            return (value,), value.end
        values: list[Value] = []
        while not self._take("]"):
            if values:
                comma = self._at
                if not self._take(","):
                    raise self._expected("',' or ']'")
                values[-1] = replace(values[-1], comma=comma)
            values.append(self._value(has_colon))
        return tuple(values), self._last

    def _value(self, has_colon: bool) -> Value:
        start = self._at
        if (opening := self._next()) in _CLOSING:
            self._move(start + 1)
            fields = self._fields(_CLOSING[opening])
            return Value(start, self._last, fields)
        if not has_colon:
            raise self._expected("':' and a value, or '{'")
        token = _STRING if opening in ("'", '"') else SCALAR
        while match := token.match(self._text, self._at):
            self._move(match.end())
            if token is SCALAR:
                break
        if self._at == start:
            raise self._expected("a value")
        return Value(start, self._last)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._move(self._at + 1)
        return True

    def _move(self, end: int) -> None:
        """Go on behind a token and the white space and comments after it."""
        self._last = end
        space = _SPACE.match(self._text, end)
        self._at = space.end() if space else end

    def _expected(self, what: str) -> ConfigSyntaxError:
        found = repr(self._next()) if self._next() else "the end of the file"
        reason = f"expected {what}, got {found}. Correct the text here or just before."
        return ConfigSyntaxError(self._source, *place(self._text, self._at), reason)
