"""Random configs, and texts of them as people write them."""

from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

COMMENTS = ("# plain", "# Grüße, 世界, مرحبا, привет", "#glued: [ { name: 'x' } ]", "#")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@st.composite
def messages(draw, descriptor=pb.ModelConfig.DESCRIPTOR, depth=0):
    """A random message, most of its fields left out."""
    message = getattr(pb, descriptor.full_name.removeprefix("inference.").split(".")[0])
    for part in descriptor.full_name.removeprefix("inference.").split(".")[1:]:
        message = getattr(message, part)
    built = message()
    if not descriptor.fields:
        return built
    fields = draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=4 - depth, unique_by=lambda f: f.name))
    taken = set()
    for field in fields:
        group = field.containing_oneof and field.containing_oneof.name
        if (field.message_type and depth > 2) or (group and group in taken):
            continue
        taken.add(group)
        put(draw, built, field, depth)
    return built


def put(draw, built, field, depth):
    target = getattr(built, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        for key in draw(st.lists(scalars(field.message_type.fields_by_name["key"]), max_size=2, unique=True)):
            if value.message_type:
                target[key].CopyFrom(draw(messages(value.message_type, depth + 1)))
            elif value.cpp_type == value.CPPTYPE_STRING:
                target[key] = draw(WORDS)
            else:
                target[key] = draw(st.integers(0, 9))
    elif field.message_type and field.is_repeated:
        target.extend(draw(st.lists(messages(field.message_type, depth + 1), max_size=2)))
    elif field.message_type:
        target.CopyFrom(draw(messages(field.message_type, depth + 1)))
    elif field.is_repeated:
        target.extend(draw(st.lists(scalars(field), max_size=2)))
    else:
        setattr(built, field.name, draw(scalars(field)))


def scalars(field):
    return {
        field.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        field.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        field.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        field.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        field.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
        field.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_ENUM: st.sampled_from([v.number for v in field.enum_type.values] if field.enum_type else [0]),
        field.CPPTYPE_STRING: WORDS,
    }[field.cpp_type]


@st.composite
def texts(draw, message):
    """A text of the message, in any of the ways in which Triton reads it."""
    newline = draw(st.sampled_from(("\n", "\r\n")))
    body = "".join(written(draw, message, newline, draw(st.sampled_from(("  ", "\t", "")))))
    return draw(st.sampled_from(("", "\ufeff"))) + body


def gap(draw, newline):
    kind = draw(st.sampled_from(("", " ", "\t", newline, "comment")))
    return f"{draw(st.sampled_from(COMMENTS))}{newline}" if kind == "comment" else kind


def written(draw, message, newline, indent):
    for field, value in message.ListFields():
        is_map = bool(field.message_type and field.message_type.GetOptions().map_entry)
        if is_map:
            entry = field.message_type._concrete_class
            values = [
                entry(key=key, **({} if field.message_type.fields_by_name["value"].message_type else {"value": item}))
                for key, item in value.items()
            ]
            for made in values:
                if field.message_type.fields_by_name["value"].message_type:
                    made.value.CopyFrom(value[made.key])
        else:
            values = list(value) if field.is_repeated else [value]
        as_list = field.is_repeated and draw(st.booleans())
        if as_list:
            yield f"{indent}{field.name}{gap(draw, newline)}:{gap(draw, newline)}["
            for i, item in enumerate(values):
                yield f"{',' if i else ''}{gap(draw, newline)}{one(draw, field, item, newline)}{gap(draw, newline)}"
            yield "]"
            yield separator(draw, newline)
        else:
            for item in values:
                colon = ":" if not field.message_type or draw(st.booleans()) else ""
                yield f"{indent}{field.name}{gap(draw, newline)}{colon}{gap(draw, newline)}"
                yield one(draw, field, item, newline)
                yield separator(draw, newline)


def separator(draw, newline):
    return draw(st.sampled_from((",", ";", "", " # glued? no,"))) + newline


def one(draw, field, value, newline):
    if field.message_type:
        opening, closing = draw(st.sampled_from(("{}", "<>")))
        return f"{opening}{gap(draw, newline)}{''.join(written(draw, value, newline, ' '))}{closing}"
    if field.cpp_type == field.CPPTYPE_STRING:
        return string(draw, value, newline)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return draw(st.sampled_from(("true", "t", "True", "1") if value else ("false", "f", "False", "0")))
    if field.cpp_type == field.CPPTYPE_ENUM:
        return draw(st.sampled_from((field.enum_type.values_by_number[value].name, str(value))))
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return repr(value)
    return draw(st.sampled_from((str(value), f"{'-' if value < 0 else ''}{hex(abs(value))}")))


def string(draw, value, newline):
    cut = draw(st.integers(0, len(value)))
    parts = [value[:cut], value[cut:]] if 0 < cut < len(value) else [value]
    return gap(draw, newline).join(quoted(draw, part) for part in parts)


def quoted(draw, part):
    quote = draw(st.sampled_from("'\""))
    how = draw(st.sampled_from(("plain", "octal", "hex")))
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", quote: f"\\{quote}"}
    if how == "octal":
        return quote + "".join(f"\\{byte:03o}" for byte in part.encode()) + quote
    if how == "hex":
        return quote + "".join(f"\\x{byte:02x}" for byte in part.encode()) + quote
    return quote + "".join(escapes.get(c, c) for c in part) + quote
