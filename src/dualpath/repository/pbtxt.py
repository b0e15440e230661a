"""Read a protobuf text config, keep where each field stands, and edit the text around what stays.

The message comes from `google.protobuf.text_format`. It forgets positions, refuses what it does not know and cannot
write a text back as its author wrote it, so the tree of positions is read here.

The path of a field is given by field names, each followed by an index if the field is repeated, or by a key if it is a
map: "parameters", "threads", "value", "string_value"; or "ensemble_scheduling", "step", 0, "model_version".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dualpath.extras import needs
from dualpath.repository.pbtxt_fields import (
    BYTE_ORDER_MARK,
    NAME,
    SCALAR,
    ConfigSyntaxError,
    Field,
    FieldReader,
    Value,
    place,
)

with needs("cli"):
    from google.protobuf import text_format
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_REST_OF_LINE = re.compile(r"[ \t]*(#[^\r\n]*)?(?=\r?(\n|$))")


@dataclass(frozen=True)
class Unknown:
    """A field, or the value of an enumeration, that this version of the protocol does not have.

    Attributes:
        name: as in the config, with those of the messages around it: "dynamic_batching.new_field".
        line, column: both from 1.
    """

    name: str
    line: int
    column: int


class Config:
    """The text of a config.pbtxt, with the message that it means and the place of everything in it.

    Args:
        text: the config; what is not UTF-8 in it stands as surrogate escapes.
        source: what to call the text in errors: its file.
    Raises:
        ConfigSyntaxError: the text is not a ModelConfig in protobuf's text format.
    """

    def __init__(self, text: str, source: str = "config.pbtxt") -> None:
        self.text = text
        self.source = source
        self.fields = FieldReader(text, source).read()

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a file."""
        return cls(path.read_bytes().decode("utf-8", "surrogateescape"), str(path))

    def save(self, path: Path) -> None:
        """Write the text; bytes that no edit touched are the bytes that were read."""
        path.write_bytes(self.text.encode("utf-8", "surrogateescape"))

    @cached_property
    def message(self) -> Any:
        """The ModelConfig, without what is `unknown`.

        Raises:
            ConfigSyntaxError: a value does not fit its field, or a field that takes one value has two.
        """
        text = list(self.text)
        for field, _ in self._unknown:
            text[field.start : field.end] = [c if c.isspace() else " " for c in text[field.start : field.end]]
        for value in _scalars(self.fields):
            if (minus := SCALAR.match(self.text, value.start)) and minus[1]:  # "- 1", which text_format does not take
                text[minus.start(1) : minus.end(1)] = reversed(minus[1])
        if self.text.startswith(BYTE_ORDER_MARK):
            text[0] = " "
        try:
            return text_format.Parse("".join(text), ModelConfig())
        except text_format.ParseError as error:
            line, column = error.GetLine() or 1, error.GetColumn() or 1
            reason = re.sub(r"^\d+:\d+ : ('.*?': )?", "", str(error), flags=re.DOTALL).removesuffix(".")
            raise ConfigSyntaxError(
                self.source, line, column, f"expected a ModelConfig, got an error: {reason}. Correct the value."
            ) from None

    @cached_property
    def unknown(self) -> tuple[Unknown, ...]:
        """What this version of the protocol does not have, as in a config for a newer Triton."""
        return tuple(Unknown(name, *place(self.text, field.start)) for field, name in self._unknown)

    @cached_property
    def _unknown(self) -> list[tuple[Field, str]]:
        return list(_unknown(self.fields, ModelConfig.DESCRIPTOR, self.text, ""))

    def find(self, *path: str | int) -> Value | None:
        """Return where the value of a field stands; None if the config does not say it."""
        found = self._find(path)
        return found[1] if found else None

    def line(self, *path: str | int) -> int:
        """Return the line of a field, or of the nearest message around it that is there; 1 if none is."""
        for length in range(len(path), 0, -1):
            if found := self._find(path[:length]):
                field, value = found
                return place(self.text, value.start if field.is_list else field.start)[0]
        return 1

    def add(self, field: str) -> Config:
        """Add a field, as protobuf text, as the last one."""
        text, newline = self.text, "\r\n" if "\r\n" in self.text else "\n"
        if not self.fields:
            before = "" if text.strip(BYTE_ORDER_MARK + " \t")[-1:] in ("", "\n") else newline
            return Config(f"{text}{before}{field}{newline}", self.source)
        last = self.fields[-1]
        before = text[text.rfind("\n", 0, last.start) + 1 : last.start].removeprefix(BYTE_ORDER_MARK)
        if before.strip():  # not the first of its line
            return Config(f"{text[: last.end]} {field}{text[last.end :]}", self.source)
        rest = _REST_OF_LINE.match(text, last.end)  # a comment there belongs to the last field
        at = rest.end() if rest else last.end
        return Config(f"{text[:at]}{newline}{before}{field}{text[at:]}", self.source)

    def remove(self, *path: str | int) -> Config:
        """Remove a field, or one value of a list, and the line if nothing else is on it. Comments stay.

        Raises:
            KeyError: it is not there.
        """
        found = self._find(path)
        if found is None:
            raise KeyError(f"{self.source}: expected a field {'.'.join(map(str, path))}, got none.")
        field, value = found
        if len(field.values) == 1:
            return Config(_without(self.text, field.start, field.end), self.source)
        comma = value.comma if value.comma is not None else field.values[-2].comma
        assert comma is not None
        text = self.text
        for start, end in sorted([(value.start, value.end), (comma, comma + 1)], reverse=True):
            text = _without(text, start, end)
        return Config(text, self.source)

    def _find(self, path: tuple[str | int, ...]) -> tuple[Field, Value] | None:
        fields, descriptor = self.fields, ModelConfig.DESCRIPTOR
        found = None
        steps = list(path)
        while steps:
            name = str(steps.pop(0))
            known = descriptor.fields_by_name.get(name) if descriptor else None
            values = [(field, value) for field in fields if field.name == name for value in field.values]
            index = 0
            if steps and isinstance(steps[0], int):
                index = int(steps.pop(0))
            elif steps and known is not None and _is_map(known):  # of equal keys the last one counts
                key, index = steps.pop(0), -1
                values = [found for found in values if self._key(found[1], known) == key]
            if not -1 <= index < len(values) or not values:
                return None
            found = values[index]
            fields = found[1].fields or ()
            descriptor = known.message_type if known else None
        return found

    def _key(self, entry: Value, field: FieldDescriptor) -> str:
        written = next(
            (self.text[f.values[0].start : f.values[0].end] for f in entry.fields or () if f.name == "key"), ""
        )
        if field.message_type.fields_by_name["key"].cpp_type != FieldDescriptor.CPPTYPE_STRING:
            return str(int(written or "0", 0))
        return str(text_format.Parse(f"name: {written}", ModelConfig()).name) if written else ""


def _without(text: str, start: int, end: int) -> str:
    """Return the text without a part of it: without the line if nothing else is on it, and with one space for two."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end) + 1 or len(text)
    if not (text[line_start:start] + text[end:line_end]).strip():
        start, end = line_start, line_end
    elif text[start - 1 : start] == " " and text[end : end + 1] in (" ", ""):
        start -= 1
    return text[:start] + text[end:]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _scalars(fields: tuple[Field, ...]) -> Iterator[Value]:
    for field in fields:
        for value in field.values:
            if value.fields is None:
                yield value
            else:
                yield from _scalars(value.fields)


def _unknown(fields: tuple[Field, ...], descriptor: Descriptor, text: str, around: str) -> Iterator[tuple[Field, str]]:
    for field in fields:
        known = descriptor.fields_by_name.get(field.name)
        name = f"{around}{field.name}"
        if known is None:
            yield field, name
        elif known.message_type is not None:
            for value in field.values:
                yield from _unknown(value.fields or (), known.message_type, text, f"{name}.")
        elif known.enum_type is not None:
            for word in (text[value.start : value.end] for value in field.values):
                if NAME.fullmatch(word) and word not in known.enum_type.values_by_name:
                    yield field, f"{name}: {word}"
