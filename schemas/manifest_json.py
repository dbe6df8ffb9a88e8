"""A `Manifest` in, its JSON text out, and back: exact inverses, the same text for the same manifest on any machine.

What comes back from text is checked as far as its own types go, and then by `schemas.references` for whether its
records agree with each other. Nothing gets through that manifest.schema.json refuses; `check_schema` is for its words.
"""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn

from msgspec import Struct

from . import SCHEMAS
from .diagnostic import Diagnostic, LoadFailed
from .manifest import FORMAT, Manifest
from .references import broken_references

MAX_BYTES = 64 << 20
"""A longer text is no manifest of ours."""

_HEX = re.compile(r"([0-9a-f]{2})*")
_SHOWN = 5  # of many findings of one kind, so many are told


def to_json(manifest: Manifest) -> str:
    """The manifest as indented text, keys in the order in which manifest.py declares them."""
    return json.dumps(_plain(manifest), indent=1, ensure_ascii=False) + "\n"


def to_data(manifest: Manifest) -> Any:
    """The manifest as plain data, as JSON has it."""
    return _plain(manifest)


def from_json(text: str | bytes) -> Manifest:
    """The manifest that a text describes. Raises `LoadFailed` (M102 to M105)."""
    return from_data(parse(text))


def parse(text: str | bytes) -> Any:
    """The text as plain data. Raises `LoadFailed` (M102)."""
    if len(text) > MAX_BYTES:
        _refuse("M102", f"the manifest is longer than {MAX_BYTES >> 20} MiB")
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise LoadFailed(Diagnostic("M102", f"the manifest is not JSON: {reason}")) from error


def from_data(data: Any) -> Manifest:
    """The manifest that plain data describes. Raises `LoadFailed` (M103 to M105)."""
    _check_format(data)
    manifest: Manifest = _record(Manifest, data, "manifest")
    broken = tuple(broken_references(manifest))
    if broken:
        raise LoadFailed(*(Diagnostic("M105", f"the manifest contradicts itself: {what}") for what in broken[:_SHOWN]))
    return manifest


def check_schema(data: Any) -> None:
    """Raises `LoadFailed` (M103, M104) that names what manifest.schema.json does not allow."""
    from jsonschema import Draft202012Validator

    _check_format(data)
    schema = json.loads((SCHEMAS / "manifest.schema.json").read_text(encoding="utf-8"))
    findings = []
    for error in Draft202012Validator(schema).iter_errors(data):
        findings.append(Diagnostic("M104", f"{_place(error.absolute_path)}: {_brief(error.message)}"))
        if len(findings) == _SHOWN:
            break
    if findings:
        raise LoadFailed(*findings)


def _check_format(data: Any) -> None:
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is not int:
        _refuse("M103", "this is not a manifest: it has no format number")
    if found != FORMAT:
        diagnostic = Diagnostic(
            "M103",
            f"the manifest has format {found}, and this version of bpfchain reads format {FORMAT}",
            help="compile the chain again with this version",
        )
        raise LoadFailed(diagnostic)


def _place(path: typing.Iterable[str | int]) -> str:
    return "manifest" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _brief(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _refuse(code: str, message: str) -> NoReturn:
    raise LoadFailed(Diagnostic(code, message))


# --- records and plain data -----------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


@functools.cache
def _fields(record: type[Struct]) -> dict[str, Any]:
    """Names and types of a record's fields, in order."""
    hints = typing.get_type_hints(record)
    return {name: hints[name] for name in record.__struct_fields__}


def _record(record: type, data: Any, place: str) -> Any:
    fields = _fields(record)
    if not isinstance(data, dict):
        _wrong(place, "an object", data)
    for name in data:
        if name not in fields:
            _refuse("M104", f"{place}: there is no field `{_brief(name, 40)}`")
    for name in fields:
        if name not in data:
            _refuse("M104", f"{place}: the field `{name}` is missing")
    return record(**{name: _value(kind, data[name], place, name) for name, kind in fields.items()})


def _value(kind: Any, data: Any, place: str, name: str | int) -> Any:
    """`data` as a value of `kind`; the place is worded only where it is needed, because there are many values."""
    if kind is str or kind is int or kind is bool:
        return data if type(data) is kind and _is_text(data) else _wrong(_at(place, name), _SPELLED[kind], data)
    if kind is bytes:
        return _bytes(data, _at(place, name))
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind), data, _at(place, name))
    if typing.get_origin(kind) is Mapping:
        return data if isinstance(data, dict) and _is_plain(data) else _wrong(_at(place, name), "an object", data)
    if isinstance(kind, types.UnionType):
        (present,) = (option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if data is None else _value(present, data, place, name)
    if issubclass(kind, StrEnum):
        if not isinstance(data, str) or data not in set(kind):
            _wrong(_at(place, name), " or ".join(f"`{choice}`" for choice in kind), data)
        return kind(data)
    return _record(kind, data, _at(place, name))


def _is_text(data: str | int | bool) -> bool:
    """JSON can spell halves of a character (`\\ud800`), which no system call and no terminal takes."""
    return isinstance(data, int) or data.isascii() or not any("\ud800" <= c <= "\udfff" for c in data)


def _is_plain(data: Any) -> bool:
    """Whether all text in it is whole."""
    if isinstance(data, dict):
        return all(_is_plain(item) for pair in data.items() for item in pair)
    if isinstance(data, list):
        return all(map(_is_plain, data))
    return not isinstance(data, str) or _is_text(data)


_SPELLED = {str: "a string", int: "an integer", bool: "true or false"}


def _at(place: str, name: str | int) -> str:
    return f"{place}[{name}]" if isinstance(name, int) else f"{place}.{name}"


def _tuple(kinds: tuple[Any, ...], data: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        _wrong(place, "a list", data)
    if kinds[-1] is Ellipsis:
        return tuple(_value(kinds[0], item, place, index) for index, item in enumerate(data))
    if len(data) != len(kinds):
        _wrong(place, f"a list of {len(kinds)}", data)
    return tuple(_value(kind, item, place, index) for index, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _bytes(data: Any, place: str) -> bytes:
    if not isinstance(data, str) or not _HEX.fullmatch(data):
        _wrong(place, "lower-case hex", data)
    return bytes.fromhex(data)


def _wrong(place: str, wanted: str, data: Any) -> NoReturn:
    _refuse("M104", f"{place}: {_brief(json.dumps(data, default=str), 60)} is not {wanted}")
