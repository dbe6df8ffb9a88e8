"""`Source` and JSON Schema in, diagnostics out: mistakes of shape, each with the place that it makes unusable."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from schemas import SCHEMAS
from schemas.diagnostic import Diagnostic

from . import yaml12
from .cache import cache_folder, write_whole
from .fits import is_integer, is_number, surely_fits
from .service import Service, registry
from .source import Pointer, Source, Value
from .wording import explain, matches, unknown_keys

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

JsonSchema = Mapping[str, Any]


class ShapeError(Struct, frozen=True):
    """A diagnostic, and the pointer of the value that cannot be relied on."""

    diagnostic: Diagnostic
    pointer: Pointer


def validate(source: Source) -> tuple[Diagnostic, ...]:
    """Every mistake of shape in `source`, those that reading it met included, in the order of the file."""
    return told(source, shape_errors(source))


def told(source: Source, shape: Iterable[ShapeError]) -> tuple[Diagnostic, ...]:
    """What reading met, and the errors of shape in other places than these."""
    places = {problem.span for problem in source.problems}
    return in_order({*source.problems, *(e.diagnostic for e in shape if e.diagnostic.span not in places)})


def in_order(diagnostics: set[Diagnostic]) -> tuple[Diagnostic, ...]:
    """By place, then by code."""
    return tuple(sorted(diagnostics, key=lambda found: (found.span is not None, found.span, found.code, found.message)))


def shape_errors(source: Source) -> tuple[ShapeError, ...]:
    """What the schemas say: that of a chain, and of each service the schema of its kind.

    jsonschema takes longer to import than all else together takes to compile, so it is asked only where the schemas
    have something to say against the text, or something too rare for `surely_fits`; that such a text is sound is kept.
    """
    if _surely_sound(source):
        return ()
    known_sound = cache_folder() / "sound" / _identity(source)
    if known_sound.exists():
        return ()
    found = _shape_errors(source)
    if not found and not source.problems:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            write_whole(known_sound, b"")
    return found


def _identity(source: Source) -> str:
    """Digest of everything that decides: the text, the schemas, and the code that reads and checks."""
    digest = hashlib.sha256(source.sha256.encode())
    digest.update((SCHEMAS / "chain.schema.json").read_bytes())
    for kind, service in registry().items():
        digest.update(f"{kind}{service.json_schema()}".encode())
    for module in (__file__, yaml12.__file__):
        digest.update(str(Path(module).stat().st_mtime_ns).encode())
    return digest.hexdigest()


def _surely_sound(source: Source) -> bool:
    """Whether everything that `_shape_errors` asks the schemas surely fits them."""
    schema = chain_schema()
    if not surely_fits(source.data, schema, schema):
        return False
    services = source.data.get("services", {})
    return isinstance(services, dict) and all(map(_surely_sound_service, services.values()))


def _surely_sound_service(instance: Any) -> bool:
    kind = instance.get("kind") if isinstance(instance, dict) else None
    if not isinstance(kind, str) or kind not in registry():
        return False
    schema = registry()[kind].json_schema()
    return surely_fits(instance, schema, schema)


def _shape_errors(source: Source) -> tuple[ShapeError, ...]:
    root = source.root()
    found = list(_errors(root, _chain_validator()))
    services = root.get("services")
    if services is not None and isinstance(services.data, dict):
        for _, instance in services.items():
            kind = instance.data.get("kind") if isinstance(instance.data, dict) else None
            if isinstance(kind, str) and kind in registry():
                found += _errors(instance, _service_validator(registry()[kind]))
    return tuple(dict.fromkeys(found))


def sound_part(instance: Value, service: Service) -> Value | None:
    """A service without what is wrong in it, so that the rest can be resolved; None where too little is left.

    A list goes as a whole, because its items are known by their index, and so does a mapping that lost a key it needs.
    """
    data = copy.deepcopy(instance.data)
    while errors := list(_service_validator(service).iter_errors(data)):
        for error in errors:
            path = list(error.absolute_path)
            if error.validator == "additionalProperties" and isinstance(error.schema, dict):
                unknown = set(unknown_keys(error.instance, error.schema))
                for key in unknown:
                    error.instance.pop(key, None)
                if unknown:
                    continue
            if not _remove(data, path):
                return None
    return Value(instance.source, instance.pointer, data)


def _remove(data: Any, path: Sequence[str | int]) -> bool:
    """Take the value at `path` out of the mapping that it is in; False where that is all of `data`."""
    keys = list(itertools.takewhile(lambda step: isinstance(step, str), path))
    for key in keys[:-1]:
        data = data.get(key, {})  # gone already, where two errors were in one value
    if keys:
        data.pop(keys[-1], None)
    return bool(keys)


@functools.cache
def chain_schema() -> JsonSchema:
    """The schema of a chain file, without those of the services."""
    schema: JsonSchema = json.loads((SCHEMAS / "chain.schema.json").read_text(encoding="utf-8"))
    return schema


def merged_schema() -> JsonSchema:
    """The schema of a chain file with every known kind of service in it, for editors."""
    merged: dict[str, Any] = json.loads(json.dumps(chain_schema()))
    kinds = {kind: registry()[kind] for kind in sorted(registry())}
    instance = merged["$defs"]["service"]
    instance["properties"]["kind"] |= {
        "enum": list(kinds),
        "markdownEnumDescriptions": [service.summary for service in kinds.values()],
    }
    instance["allOf"] = []
    for kind, service in kinds.items():
        name = f"service-{kind}"
        merged["$defs"][name] = _moved(service, name)
        condition = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
        instance["allOf"].append({"if": condition, "then": {"$ref": f"#/$defs/{name}"}})
    return merged


def _moved(service: Service, name: str) -> JsonSchema:
    """A service's schema with its references made right for its place below `$defs`."""

    def move(data: Any) -> Any:
        if isinstance(data, list):
            return [move(item) for item in data]
        if not isinstance(data, dict):
            return data
        return {
            key: f"#/$defs/{name}{item[1:]}" if key == "$ref" and isinstance(item, str) else move(item)
            for key, item in data.items()
            if key not in ("$schema", "$id")
        }

    moved: JsonSchema = move(service.json_schema())
    return moved


@functools.cache
def _chain_validator() -> Any:
    return _validator_class()(chain_schema())


@functools.cache
def _service_validator(service: Service) -> Any:
    return _validator_class()(service.json_schema())


def _errors(value: Value, validator: Any) -> Iterator[ShapeError]:
    for error in validator.iter_errors(value.data):
        yield from _diagnostics(error, value)


@functools.cache
def _validator_class() -> Any:
    """jsonschema's validator, but 1.0 is no integer, .inf no number, and patterns are those of the specification."""
    import jsonschema  # costs 150 ms

    base: Any = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many(
        {"integer": lambda _checker, data: is_integer(data), "number": lambda _checker, data: is_number(data)}
    )

    def pattern(_validator: Any, wanted: str, data: Any, _schema: Any) -> Iterator[Any]:
        if isinstance(data, str) and not matches(wanted, data):
            yield jsonschema.ValidationError(f"does not match {wanted}")

    extend: Any = jsonschema.validators.extend  # untyped
    return extend(base, validators={"pattern": pattern}, type_checker=types)


def _diagnostics(error: ValidationError, root: Value) -> Iterator[ShapeError]:
    """One error of jsonschema as it is told; of several alternatives only the one that was meant."""
    meant = _meant(error)
    if meant:
        for part in meant:
            yield from _diagnostics(part, root)
        return
    value = _at(root, error)
    schema = error.schema if isinstance(error.schema, dict) else {}
    is_name = isinstance(value.data, dict) and isinstance(error.instance, str)  # from `propertyNames`
    if is_name:
        value = Value(root.source, (*value.pointer, str(error.instance)), error.instance)
    for diagnostic in explain(str(error.validator), value, schema, error.validator_value, is_name):
        yield ShapeError(diagnostic, value.pointer)


def _at(root: Value, error: ValidationError) -> Value:
    data = root.data
    for key in error.absolute_path:
        data = data[key]
    return Value(root.source, (*root.pointer, *error.absolute_path), data)


def _meant(error: ValidationError) -> list[ValidationError]:
    """For `anyOf` and `oneOf`: the errors of the one alternative whose type fits the value, if it is just one."""
    if error.validator not in ("anyOf", "oneOf"):
        return []
    branches: dict[Any, list[ValidationError]] = {}
    for part in error.context or ():
        branches.setdefault(part.relative_schema_path[0], []).append(part)
    fitting = [parts for parts in branches.values() if not any(map(_wrong_altogether, parts))]
    return fitting[0] if len(fitting) == 1 else []


def _wrong_altogether(error: ValidationError) -> bool:
    return not error.relative_path and error.validator in ("type", "const", "enum")
