"""Plain data and a JSON Schema in, whether the one surely fits the other out: the usual case, without jsonschema.

A yes is final. A no only says that jsonschema has to be asked: the data may be wrong, or the schema say something that
is not known here. All keywords known here narrow what is accepted, so that what is passed over never turns into a yes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .wording import matches

JsonSchema = Mapping[str, Any]

_SAYS_NOTHING = frozenset(
    {"$schema", "$defs", "$comment", "title", "description", "examples", "default", "markdownEnumDescriptions"}
)


def surely_fits(data: Any, schema: JsonSchema | bool, root: JsonSchema) -> bool:
    """Whether `data` is certain to be valid under `schema`, a part of `root` (JSON Schema 2020-12).

    `integer`, `number` and `pattern` are those of validate.py.
    """
    if isinstance(schema, bool):
        return schema
    return all(
        keyword in _KEYWORDS and _KEYWORDS[keyword](data, wanted, schema, root)
        for keyword, wanted in schema.items()
        if keyword not in _SAYS_NOTHING
    )


def is_integer(data: Any) -> bool:
    """A whole number as it was written: 1.0 is none."""
    return isinstance(data, int) and not isinstance(data, bool)


def is_number(data: Any) -> bool:
    """A number that JSON can write: .inf is none."""
    return isinstance(data, int | float) and not isinstance(data, bool) and math.isfinite(data)


# --- keywords: (data, the keyword's value, the schema that it stands in, the root) -> whether it surely holds ---------

_Keyword = Callable[[Any, Any, JsonSchema, JsonSchema], bool]

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda data: isinstance(data, dict),
    "array": lambda data: isinstance(data, list),
    "string": lambda data: isinstance(data, str),
    "boolean": lambda data: isinstance(data, bool),
    "null": lambda data: data is None,
    "integer": is_integer,
    "number": is_number,
}


def _type(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(name in _TYPES and _TYPES[name](data) for name in names)


def _same(data: Any, wanted: Any) -> bool:
    """Of scalars alone: what is equal in JSON and what is in Python differ for `true`, `1` and `1.0`."""
    return type(data) is type(wanted) and isinstance(data, str | int | None) and data == wanted


def _enum(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    return any(_same(data, each) for each in wanted)


def _const(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    return _same(data, wanted)


def _reference(data: Any, wanted: str, _schema: JsonSchema, root: JsonSchema) -> bool:
    found: Any = root
    if not wanted.startswith("#/") or "~" in wanted or "%" in wanted:
        return False
    for step in wanted[2:].split("/"):
        # References below an `$id` do not start at this root.
        found = found.get(step, False) if isinstance(found, dict) and "$id" not in found else False
    return surely_fits(data, found, root)


def _any_of(data: Any, wanted: Any, _schema: JsonSchema, root: JsonSchema) -> bool:
    return any(surely_fits(data, branch, root) for branch in wanted)


def _properties(data: Any, wanted: Any, _schema: JsonSchema, root: JsonSchema) -> bool:
    return not isinstance(data, dict) or all(
        surely_fits(data[name], schema, root) for name, schema in wanted.items() if name in data
    )


def _additional_properties(data: Any, wanted: Any, schema: JsonSchema, root: JsonSchema) -> bool:
    known = schema.get("properties", ())
    return not isinstance(data, dict) or all(
        surely_fits(item, wanted, root) for name, item in data.items() if name not in known
    )


def _property_names(data: Any, wanted: Any, _schema: JsonSchema, root: JsonSchema) -> bool:
    return not isinstance(data, dict) or all(surely_fits(name, wanted, root) for name in data)


def _required(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    return not isinstance(data, dict) or all(name in data for name in wanted)


def _dependent_required(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    return not isinstance(data, dict) or all(
        name in data for given, names in wanted.items() if given in data for name in names
    )


def _items(data: Any, wanted: Any, _schema: JsonSchema, root: JsonSchema) -> bool:
    return not isinstance(data, list) or all(surely_fits(item, wanted, root) for item in data)


def _unique_items(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    if not wanted or not isinstance(data, list):
        return True
    return all(isinstance(item, str) or is_integer(item) for item in data) and len(set(data)) == len(data)


def _pattern(data: Any, wanted: Any, _schema: JsonSchema, _root: JsonSchema) -> bool:
    return not isinstance(data, str) or matches(wanted, data)


def _number(holds: Callable[[Any, Any], bool]) -> _Keyword:
    return lambda data, wanted, _schema, _root: not isinstance(data, int | float) or holds(data, wanted)


def _size(kind: type[Any], holds: Callable[[int, Any], bool]) -> _Keyword:
    return lambda data, wanted, _schema, _root: not isinstance(data, kind) or holds(len(data), wanted)


def _at_least(found: Any, limit: Any) -> bool:
    return bool(found >= limit)


def _at_most(found: Any, limit: Any) -> bool:
    return bool(found <= limit)


_KEYWORDS: Mapping[str, _Keyword] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "$ref": _reference,
    "anyOf": _any_of,
    "properties": _properties,
    "additionalProperties": _additional_properties,
    "propertyNames": _property_names,
    "required": _required,
    "dependentRequired": _dependent_required,
    "minProperties": _size(dict, _at_least),
    "maxProperties": _size(dict, _at_most),
    "items": _items,
    "uniqueItems": _unique_items,
    "minItems": _size(list, _at_least),
    "maxItems": _size(list, _at_most),
    "pattern": _pattern,
    "minLength": _size(str, _at_least),
    "maxLength": _size(str, _at_most),
    "minimum": _number(_at_least),
    "maximum": _number(_at_most),
    "exclusiveMinimum": _number(lambda found, limit: bool(found > limit)),
    "exclusiveMaximum": _number(lambda found, limit: bool(found < limit)),
}
