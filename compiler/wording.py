"""A keyword of JSON Schema that a value fails in, the diagnostic in the words of the chain language out.

What jsonschema itself says is never shown. A schema takes part in the wording: `title` is a noun phrase for what is
accepted ("a device name"), `description` explains it, and the first of `examples` can be pasted.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from schemas.diagnostic import Diagnostic, Span

from .source import Value
from .words import SUGGESTED, closest, did_you_mean, kind_of, listed, show

JsonSchema = Mapping[str, Any]
Notes = tuple[str, ...]

PASTED = 100  # characters of a help that is made of what the file has
NAME_TITLE = "a name"  # of the schema that names follow; they have a code of their own

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]*(:[A-Za-z0-9./-]+)*")
_OTHER_THAN_STRING = re.compile(r"null|true|false|[0-9.]+(e[0-9-]+)?|0o[0-7]+|0x[0-9a-f]+", re.IGNORECASE)
_ANNOTATIONS = {"title", "description", "examples", "default", "$comment"}
_LOOKED_AT = _ANNOTATIONS | {"type", "minimum", "maximum", "maxLength", "pattern", "properties", "additionalProperties"}
_UNITS = {"str": ("character", "Length"), "list": ("item", "Items"), "dict": ("key", "Properties")}


def explain(keyword: str, value: Value, schema: JsonSchema, argument: Any, is_name: bool) -> Iterator[Diagnostic]:
    """What is wrong with `value`, which fails `keyword: argument` of `schema`; `is_name` where it is itself a key."""
    if is_name or (keyword == "pattern" and schema.get("title") == NAME_TITLE):
        yield _bad_name(value, schema)
    else:
        yield from _EXPLANATIONS.get(keyword, _not_accepted)(value, schema, argument)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as ECMA 262 has it: `$` is the very end, `\\d` an ASCII digit."""
    pieces = r"\\.|\[(?:\\.|[^\]\\])*\]|\$"
    return re.compile(re.sub(pieces, lambda found: r"\Z" if found[0] == "$" else found[0], pattern), re.ASCII)


def matches(pattern: str, text: str) -> bool:
    """Whether the JSON Schema pattern occurs in `text`."""
    return _compiled(pattern).search(text) is not None


def accepted(schema: JsonSchema) -> str:
    """What a schema takes, as a noun phrase."""
    if "title" in schema:
        return str(schema["title"])
    if "const" in schema:
        return show(schema["const"])
    if "enum" in schema:
        return f"one of {listed(map(str, schema['enum']), '`')}"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return " or ".join(dict.fromkeys(accepted(branch) for branch in schema[alternatives]))
    types = schema.get("type", [])
    names = [_TYPES.get(name, str(name)) for name in ([types] if isinstance(types, str) else types)]
    return " or ".join(names) or "another value"


def flow(data: Any) -> str:
    """Plain data in one line of YAML."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(map(flow, data)) + "]"
    if isinstance(data, str) and _PLAIN.fullmatch(data) and not _OTHER_THAN_STRING.fullmatch(data):
        return data
    return json.dumps(data)


def _bad_name(value: Value, schema: JsonSchema) -> Diagnostic:
    name = str(value.data)
    better = re.sub(r"-+", "-", re.sub(r"[^a-z0-9]", "-", name.lower())).lstrip("-0123456789")[:32].rstrip("-")
    return Diagnostic(
        "C119",
        f"{show(name)} is not {accepted(schema) if 'title' in schema else 'a name that is allowed here'}",
        value.key_span if value.data != _data_at(value) else value.span,
        notes=_described(schema),
        help=f"did you mean `{better}`?" if better and better != name else "",
    )


def _data_at(value: Value) -> Any:
    """What the file really has at the value's place: not the same where `value` stands for a key."""
    data = value.source.data
    for step in value.pointer:
        data = data[step]
    return data


def unknown_keys(data: Mapping[str, Any], schema: JsonSchema) -> list[str]:
    """Keys of `data` that `schema`, which allows no others, does not have."""
    known: Mapping[str, Any] = schema.get("properties", {})
    patterns: Mapping[str, Any] = schema.get("patternProperties", {})
    return [key for key in data if key not in known and not any(matches(p, key) for p in patterns)]


def _unknown_key(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    known: Sequence[str] = list(schema.get("properties", {}))
    free = [key for key in known if key not in value.data]
    for index, key in enumerate(unknown_keys(value.data, schema)):
        item = Value(value.source, (*value.pointer, key), value.data[key])
        meant = closest(key, free) if index < SUGGESTED else None
        yield Diagnostic(
            "C110",
            f"unknown key {show(key)}",
            item.key_span,
            f"{_owner(value)} has no such key",
            (f"keys here: {listed(known)}",) if known else (),
            f"did you mean `{meant}`?" if meant else "",
        )


def _missing_key(value: Value, schema: JsonSchema, required: Sequence[str]) -> Iterator[Diagnostic]:
    missing = [key for key in required if key not in value.data]
    unknown = [key for key in value.data if key not in schema.get("properties", {})]
    misspelt = (
        {closest(key, missing) for key in unknown[:SUGGESTED]} if schema.get("additionalProperties") is False else set()
    )
    for key in missing:
        if key in misspelt:  # told as an unknown key, with this one as the suggestion
            continue
        inner: JsonSchema = schema.get("properties", {}).get(key, {})
        example = f"for example `{key}: {flow(inner['examples'][0])}`" if inner.get("examples") else ""
        notes = tuple(f"`{key}`: {note}" for note in _described(inner))
        yield Diagnostic("C111", f"missing key `{key}`", _head(value), f"{_owner(value)} needs it", notes, example)


def _wrong_type(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    found = show(value.data) if isinstance(value.data, bool | float) else kind_of(value.data)
    message = f"expected {accepted(schema)}, found {found}"
    span = value.span if value.data is not None else _head(value)
    advice = _mended(value, schema) or _example(schema)
    yield Diagnostic("C112", message, span, f"this is {found}", _described(schema), advice)


def _mended(value: Value, schema: JsonSchema) -> str:
    """What the value was probably meant as, to be pasted in its place; empty where that would not be right either."""
    meant = _meant_list(value.data, schema) or _meant_mapping(value.data, schema)
    key = value.pointer[-1] if value.pointer else None
    if value.data is None and isinstance(key, str) and _takes(schema, {}):
        return f"write `{key}: {{}}`"
    text = f"write `{flow(meant)}`" if meant else ""
    return text if len(text) <= PASTED else ""


def _meant_list(data: Any, schema: JsonSchema) -> list[Any] | None:
    """One item without its brackets, or several with commas."""
    items = re.split(r"\s*,\s*", data.strip()) if isinstance(data, str) else [data]
    if schema.get("type") != "array" or not schema.get("minItems", 0) <= len(items) <= schema.get("maxItems", PASTED):
        return None
    return items if all(_takes(schema.get("items", {}), item) for item in items) else None


def _meant_mapping(data: Any, schema: JsonSchema) -> dict[str, Any] | None:
    """A list of names whose settings may be empty, or the value of the one key that is required."""
    if schema.get("type") != "object":
        return None
    if isinstance(data, list):
        of_each, of_name = schema.get("additionalProperties"), {"type": "string", **schema.get("propertyNames", {})}
        named = isinstance(of_each, dict) and _takes(of_each, {}) and all(_takes(of_name, name) for name in data)
        distinct = named and len(set(data)) == len(data) >= schema.get("minProperties", 1)
        return {name: {} for name in data} if distinct else None
    required = schema.get("required", ())
    if len(required) != 1 or not _takes(schema.get("properties", {}).get(required[0], {}), data):
        return None
    return {required[0]: data}


def _takes(schema: JsonSchema, data: Any) -> bool:
    """Whether a small schema surely accepts `data`: false for one that says more than is looked at here."""
    if schema.keys() - _LOOKED_AT:
        return False
    match data:
        case bool() | None:
            return False
        case int():
            fits = schema.get("minimum", data) <= data <= schema.get("maximum", data)
            return fits and "integer" in _types_of(schema)
        case str():
            fits = len(data) <= schema.get("maxLength", len(data)) and data.isprintable() and data != ""
            return fits and "string" in _types_of(schema) and matches(schema.get("pattern", ""), data)
        case dict():
            return "object" in _types_of(schema) and not data
    return False


def _types_of(schema: JsonSchema) -> Sequence[str]:
    types = schema.get("type", ())
    return (types,) if isinstance(types, str) else types


def _out_of_range(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    parts = [
        f"{words} {schema[keyword]}"
        for keyword, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
            ("multipleOf", "a multiple of"),
        )
        if keyword in schema
    ]
    notes = (f"allowed: {' and '.join(parts)}", *_described(schema))
    yield Diagnostic("C113", f"{show(value.data)} is out of range", value.span, "out of range", notes)


def _wrong_size(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    unit, suffix = _UNITS[type(value.data).__name__]
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    bounds = [f"{words} {bound}" for words, bound in (("at least", least), ("at most", most)) if bound is not None]
    allowed = f"exactly {least}" if least == most else " and ".join(bounds)
    units = unit if allowed.endswith(" 1") else f"{unit}s"
    message = f"expected {accepted(schema)} with {allowed} {units}, found {len(value.data) or 'none'}"
    span = value.span if value.data else _head(value)
    label = "too few" if least is not None and len(value.data) < least else "too many"
    yield Diagnostic("C114", message, span, label, _described(schema), _example(schema))


def _not_one_of(value: Value, schema: JsonSchema, allowed: Any) -> Iterator[Diagnostic]:
    choices = [str(choice) for choice in (allowed if isinstance(allowed, list) else [allowed])]
    what = schema.get("title", "a value that is allowed here")
    found = show(value.data) if not isinstance(value.data, dict | list) else kind_of(value.data)
    suggestion = did_you_mean(value.data, choices) if isinstance(value.data, str) else ""
    span = value.span if value.data is not None else _head(value)
    notes = (f"allowed: {listed(choices)}", *_described(schema))
    yield Diagnostic("C115", f"{found} is not {what}", span, "", notes, suggestion)


def _wrong_form(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    what = schema.get("title", "in a form that is accepted here")
    message = f"{show(value.data)} is not {what}"
    yield Diagnostic("C116", message, value.span, "", _described(schema), _example(schema))


def _repeated(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    seen: dict[str, Value] = {}
    for item in value.elements():
        first = seen.setdefault(json.dumps(item.data, sort_keys=True), item)
        if first is not item:
            message, notes = f"{show(item.data)} is listed twice", (f"first at {first.span}",)
            yield Diagnostic("C117", message, item.span, "the second one", notes, "leave one of them out")
    if len(seen) == len(value.data):  # equal, but not written alike: 1 and 1.0
        advice = "leave one of them out"
        yield Diagnostic("C117", "two items of this list are equal", _head(value), "", _described(schema), advice)


def _not_accepted(value: Value, schema: JsonSchema, _: Any) -> Iterator[Diagnostic]:
    found = show(value.data) if not isinstance(value.data, dict | list) else kind_of(value.data)
    notes = (f"accepted: {accepted(schema)}", *_described(schema))
    yield Diagnostic("C118", f"{found} is not accepted here", _head(value), "", notes, _example(schema))


def _missing_partner(value: Value, _schema: JsonSchema, dependent: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for key, partners in dependent.items():
        missing = [partner for partner in partners if partner not in value.data] if key in value.data else []
        if missing:
            item = Value(value.source, (*value.pointer, key), value.data[key])
            message = f"`{key}` needs {listed(missing, '`')} beside it"
            yield Diagnostic("C118", message, item.key_span, "not without the other")


_EXPLANATIONS: Mapping[str, Callable[[Value, JsonSchema, Any], Iterator[Diagnostic]]] = {
    "additionalProperties": _unknown_key,
    "required": _missing_key,
    "type": _wrong_type,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _out_of_range),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _wrong_size),
    **dict.fromkeys(("minProperties", "maxProperties"), _wrong_size),
    **dict.fromkeys(("enum", "const"), _not_one_of),
    **dict.fromkeys(("pattern", "format"), _wrong_form),
    "uniqueItems": _repeated,
    "dependentRequired": _missing_partner,
}


def _owner(value: Value) -> str:
    """Whose keys they are: `br0.fdb`, or the chain."""
    return f"`{value.path}`" if value.path else "the chain"


def _head(value: Value) -> Span:
    """Where to point for a whole value: at its key; at the first key for the document itself."""
    if value.pointer:
        return value.key_span
    first = next((item.key_span for _, item in value.items()), None) if isinstance(value.data, dict) else None
    return first or value.span


def _described(schema: JsonSchema) -> Notes:
    """The schema's description as a note: lower case, without a full stop."""
    text = str(schema.get("description", "")).rstrip(".")
    return (text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text,) if text else ()


def _example(schema: JsonSchema) -> str:
    examples = schema.get("examples")
    return f"for example `{flow(examples[0])}`" if examples else ""
