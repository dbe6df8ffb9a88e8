"""The `.maps` section in, a `MapSpec` for each variable in it out, with the place where it stands.

A map is a struct whose members are never used as such: `int (*type)[N]` says a number by the length of an array,
`T *key` says a type (libbpf's convention, tools/lib/bpf/libbpf.c parse_btf_map_def).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from .btf import Btf, Kind, Member, Type
from .elf import STT_FUNC, STT_OBJECT, STT_SECTION, ElfFile, Malformed, Relocation, RelocationType, Section, Symbol
from .spec import MapSpec
from .uapi import MAP_IN_MAP_TYPES, MapType

_POINTER_SIZE = 8
_U32_MAX = 0xFFFFFFFF
_NUMBERS = {"type", "key_size", "value_size", "max_entries", "map_flags"}


class MapPlace(Struct, frozen=True):
    """A map, and where its variable lies in `.maps`."""

    spec: MapSpec
    offset: int
    size: int


class _Definition(Struct):
    """What the members of a map's struct said so far."""

    numbers: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    inner: Type | None = None
    values_at: int | None = None


def read_maps(elf: ElfFile, btf: Btf) -> tuple[MapPlace, ...]:
    """All maps of an object. Raises `Malformed` (L103, L104)."""
    section = elf.section(".maps")
    assert section is not None
    described = next((found for found in btf.sections() if btf.name(found) == ".maps"), None)
    variables = {} if described is None else {found.name: found.type for found in btf.variables(described)}
    symbols = [s for s in elf.symbols if s.section == section.index and s.type == STT_OBJECT]
    if set(variables) != {symbol.name for symbol in symbols} or len(variables) != len(symbols):
        raise Malformed("L103", "BTF and the symbol table name different maps", section.name)
    places, values_at = [], {}
    for symbol in sorted(symbols, key=lambda symbol: symbol.value):
        if symbol.value + symbol.size > section.size:
            raise Malformed("L103", f"map `{symbol.name}` ends behind the section's end", section.name, symbol.value)
        spec, values = _map(btf, symbol.name, btf.resolve(variables[symbol.name]), symbol.value)
        places.append(MapPlace(spec, symbol.value, symbol.size))
        if values is not None:
            values_at[symbol.name] = symbol.value + values
    return _with_values(elf, section, places, values_at)


def _map(btf: Btf, name: str, described: Type, offset: int) -> tuple[MapSpec, int | None]:
    """The map, and the offset of its `values` in its variable."""
    definition = _Definition()
    for member in btf.members(described):
        try:
            _take(btf, definition, member)
        except Malformed as malformed:
            message = f"map `{name}`, member `{member.name}`: {malformed.message}"
            raise Malformed("L103", message, ".maps", offset) from malformed
    numbers, types = definition.numbers, definition.types
    if "type" not in numbers:
        raise Malformed("L103", f"map `{name}` has no type", ".maps", offset)
    inner = _inner(btf, name, numbers["type"], definition.inner, offset)
    spec = MapSpec(
        name=name,
        type=numbers["type"],
        key_size=_size(btf, name, "key", definition, offset),
        value_size=_POINTER_SIZE // 2 if inner else _size(btf, name, "value", definition, offset),
        max_entries=numbers.get("max_entries", 0),
        map_flags=numbers.get("map_flags", 0),
        btf_key_type_id=types.get("key", 0),
        btf_value_type_id=types.get("value", 0),
        inner=inner,
    )
    return spec, definition.values_at


def _take(btf: Btf, definition: _Definition, member: Member) -> None:
    if member.name in _NUMBERS:
        definition.numbers[member.name] = btf.array(btf.pointee(member.type))[1]
    elif member.name in ("key", "value"):
        pointer = btf.resolve(member.type)
        if pointer.kind != Kind.BTF_KIND_PTR:
            raise Malformed("L103", "not a pointer to a type")
        definition.types[member.name] = pointer.size_or_type
    elif member.name == "values":
        element, count = btf.array(btf.resolve(member.type))
        if count:
            raise Malformed("L103", "not an array of open length")
        definition.values_at = member.offset
        pointee = btf.pointee(element)
        definition.inner = pointee if pointee.kind == Kind.BTF_KIND_STRUCT else None
    else:
        raise Malformed("L103", f"not one of key, value, values, {', '.join(sorted(_NUMBERS))}")


def _size(btf: Btf, name: str, what: str, definition: _Definition, offset: int) -> int:
    """Bytes of the key or value, from its type or its own number; both must agree."""
    number = definition.numbers.get(f"{what}_size")
    if what not in definition.types:
        return number or 0
    size = btf.size(definition.types[what])
    if number not in (None, size) or size > _U32_MAX:
        raise Malformed("L103", f"map `{name}`: {what}_size is {number}, the type has {size} bytes", ".maps", offset)
    return size


def _inner(btf: Btf, name: str, map_type: int, described: Type | None, offset: int) -> MapSpec | None:
    if (map_type in MAP_IN_MAP_TYPES) != (described is not None):
        raise Malformed("L103", f"map `{name}`: an inner map belongs to maps of maps, and only there", ".maps", offset)
    if described is None:
        return None
    if any(member.name == "values" for member in btf.members(described)):
        raise Malformed("L103", f"map `{name}`: its inner map has values", ".maps", offset)
    return _map(btf, f"{name}.inner", described, offset)[0]


def _with_values(
    elf: ElfFile, section: Section, places: Sequence[MapPlace], values_at: Mapping[str, int]
) -> tuple[MapPlace, ...]:
    """Initial entries are relocations into the open-ended `values` of a map's variable."""
    values: dict[str, dict[int, str]] = {}
    for relocation in elf.relocations.get(section.index, ()):
        place = next((p for p in places if p.offset <= relocation.offset < p.offset + p.size), None)
        start = values_at.get(place.spec.name) if place else None
        if place is None or start is None or relocation.offset < start or (relocation.offset - start) % _POINTER_SIZE:
            raise Malformed("L104", "a relocation on no initial entry", section.name, relocation.offset)
        if relocation.type not in (RelocationType.R_BPF_64_ABS64, RelocationType.R_BPF_64_64):
            raise Malformed("L104", f"relocation type {relocation.type} on data", section.name, relocation.offset)
        index = (relocation.offset - start) // _POINTER_SIZE
        if index >= place.spec.max_entries:
            message = f"map `{place.spec.name}` has no entry {index}"
            raise Malformed("L103", message, section.name, relocation.offset)
        values.setdefault(place.spec.name, {})[index] = _value(elf, section, places, place, relocation)
    return tuple(
        replace(place, spec=replace(place.spec, values=tuple(sorted(values.get(place.spec.name, {}).items()))))
        for place in places
    )


def _value(elf: ElfFile, section: Section, places: Sequence[MapPlace], place: MapPlace, relocation: Relocation) -> str:
    """The name of the program or map that an initial entry holds."""
    symbol = relocation.symbol
    addend = int.from_bytes(section.content[relocation.offset : relocation.offset + _POINTER_SIZE], "little")
    names = dict(_candidates(elf, places, place, symbol.section))
    name = names.get(symbol.value + (addend if symbol.type == STT_SECTION else 0))
    if name is None:
        message = f"map `{place.spec.name}` cannot hold `{symbol.name}`"
        raise Malformed("L104", message, section.name, relocation.offset)
    return name


def _candidates(
    elf: ElfFile, places: Sequence[MapPlace], holder: MapPlace, section_index: int
) -> Iterator[tuple[int, str]]:
    """What a map can hold of a section, by offset there: inner maps, or programs."""
    if holder.spec.type == MapType.BPF_MAP_TYPE_PROG_ARRAY:
        functions: Iterator[Symbol] = (s for s in elf.symbols if s.type == STT_FUNC and s.section == section_index)
        yield from ((symbol.value, symbol.name) for symbol in functions)
    elif holder.spec.inner and elf.sections[section_index : section_index + 1] == (elf.section(".maps"),):
        yield from ((place.offset, place.spec.name) for place in places if place is not holder)
