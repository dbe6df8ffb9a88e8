"""The .BTF and .BTF.ext sections in; types, and the function and line records of each code section out.

Format: kernel Documentation/bpf/btf.rst. Everything is bounds-checked here as far as it is used here; the kernel
verifies the rest itself when the BTF is loaded.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

from msgspec import Struct

from .elf import Malformed

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_EXT_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ARRAY = struct.Struct("<III")
_SECINFO = struct.Struct("<III")
_RESOLVE_LIMIT = 32
"""How many types may stand between a declaration and the type with a size (MAX_RESOLVE_DEPTH in the kernel)."""

FUNC_INFO = struct.Struct("<II")
"""struct bpf_func_info: instruction offset, type id of the function."""

LINE_INFO = struct.Struct("<IIII")
"""struct bpf_line_info: instruction offset, file name and line text in the string section, line << 10 | column."""


class Kind(IntEnum):
    """BTF_KIND_*: what a type is."""

    BTF_KIND_UNKN = 0
    BTF_KIND_INT = 1
    BTF_KIND_PTR = 2
    BTF_KIND_ARRAY = 3
    BTF_KIND_STRUCT = 4
    BTF_KIND_UNION = 5
    BTF_KIND_ENUM = 6
    BTF_KIND_FWD = 7
    BTF_KIND_TYPEDEF = 8
    BTF_KIND_VOLATILE = 9
    BTF_KIND_CONST = 10
    BTF_KIND_RESTRICT = 11
    BTF_KIND_FUNC = 12
    BTF_KIND_FUNC_PROTO = 13
    BTF_KIND_VAR = 14
    BTF_KIND_DATASEC = 15
    BTF_KIND_FLOAT = 16
    BTF_KIND_DECL_TAG = 17
    BTF_KIND_TYPE_TAG = 18
    BTF_KIND_ENUM64 = 19


# Bytes that follow the common 12 of a type: a fixed number, and so many for each of its `vlen` elements.
_TAIL_SIZES: Mapping[int, tuple[int, int]] = {
    Kind.BTF_KIND_INT: (4, 0),
    Kind.BTF_KIND_PTR: (0, 0),
    Kind.BTF_KIND_ARRAY: (12, 0),
    Kind.BTF_KIND_STRUCT: (0, 12),
    Kind.BTF_KIND_UNION: (0, 12),
    Kind.BTF_KIND_ENUM: (0, 8),
    Kind.BTF_KIND_FWD: (0, 0),
    Kind.BTF_KIND_TYPEDEF: (0, 0),
    Kind.BTF_KIND_VOLATILE: (0, 0),
    Kind.BTF_KIND_CONST: (0, 0),
    Kind.BTF_KIND_RESTRICT: (0, 0),
    Kind.BTF_KIND_FUNC: (0, 0),
    Kind.BTF_KIND_FUNC_PROTO: (0, 8),
    Kind.BTF_KIND_VAR: (4, 0),
    Kind.BTF_KIND_DATASEC: (0, 12),
    Kind.BTF_KIND_FLOAT: (0, 0),
    Kind.BTF_KIND_DECL_TAG: (4, 0),
    Kind.BTF_KIND_TYPE_TAG: (0, 0),
    Kind.BTF_KIND_ENUM64: (0, 12),
}

_SIZED = frozenset(
    {
        Kind.BTF_KIND_INT,
        Kind.BTF_KIND_STRUCT,
        Kind.BTF_KIND_UNION,
        Kind.BTF_KIND_ENUM,
        Kind.BTF_KIND_ENUM64,
        Kind.BTF_KIND_FLOAT,
    }
)
_TRANSPARENT = frozenset(
    {
        Kind.BTF_KIND_TYPEDEF,
        Kind.BTF_KIND_VOLATILE,
        Kind.BTF_KIND_CONST,
        Kind.BTF_KIND_RESTRICT,
        Kind.BTF_KIND_TYPE_TAG,
    }
)


class Type(Struct, frozen=True):
    """One type: `size_or_type` is bytes or a type id, `tail` the place of what follows it in the section."""

    id: int
    kind: int
    name_at: int
    vlen: int
    size_or_type: int
    tail: int


class Member(Struct, frozen=True):
    """A member of a struct; `offset` in bytes."""

    name: str
    type: int
    offset: int


class Variable(Struct, frozen=True):
    """A variable of a data section; `place` is where in the BTF its (type, offset, size) record stands."""

    name: str
    type: int
    place: int


class Btf(Struct, frozen=True):
    """Type information: `types[id]`, id 0 is void."""

    content: bytes
    types: tuple[Type, ...]
    strings: bytes

    def type(self, id: int) -> Type:
        if id >= len(self.types):
            raise Malformed("L106", f"there is no type {id}", ".BTF")
        return self.types[id]

    def string(self, at: int) -> str:
        end = self.strings.find(b"\0", at)
        if at >= len(self.strings) or end < 0:
            raise Malformed("L106", f"there is no string at {at:#x}", ".BTF")
        return self.strings[at:end].decode("utf-8", "replace")

    def name(self, type: Type) -> str:
        return self.string(type.name_at)

    def resolve(self, id: int) -> Type:
        """The type behind typedefs and qualifiers."""
        found = self.type(id)
        for _ in range(_RESOLVE_LIMIT):
            if found.kind not in _TRANSPARENT:
                return found
            found = self.type(found.size_or_type)
        raise Malformed("L106", f"type {id} leads back to itself", ".BTF")

    def size(self, id: int) -> int:
        """Bytes of a value of this type."""
        elements = 1
        found = self.resolve(id)
        for _ in range(_RESOLVE_LIMIT):
            if found.kind == Kind.BTF_KIND_PTR:
                return 8 * elements
            if found.kind in _SIZED:
                return found.size_or_type * elements
            if found.kind != Kind.BTF_KIND_ARRAY:
                break
            element, count = self.array(found)
            elements *= count
            found = self.resolve(element)
        raise Malformed("L106", f"type {id} has no size", ".BTF")

    def array(self, type: Type) -> tuple[int, int]:
        """Element type and number of elements."""
        if type.kind != Kind.BTF_KIND_ARRAY:
            raise Malformed("L106", f"type {type.id} is not an array", ".BTF", type.tail)
        element, _, count = _ARRAY.unpack_from(self.content, type.tail)
        return element, count

    def pointee(self, id: int) -> Type:
        """The type that a pointer points to, behind typedefs and qualifiers."""
        pointer = self.resolve(id)
        if pointer.kind != Kind.BTF_KIND_PTR:
            raise Malformed("L106", f"type {id} is not a pointer", ".BTF", pointer.tail)
        return self.resolve(pointer.size_or_type)

    def members(self, type: Type) -> Iterator[Member]:
        """Of a struct or union without bit fields."""
        if type.kind not in (Kind.BTF_KIND_STRUCT, Kind.BTF_KIND_UNION):
            raise Malformed("L106", f"type {type.id} is not a struct", ".BTF", type.tail)
        for index in range(type.vlen):
            name, member_type, bits = _MEMBER.unpack_from(self.content, type.tail + index * _MEMBER.size)
            yield Member(self.string(name), member_type, bits // 8)

    def sections(self) -> Iterator[Type]:
        """The data sections that BTF describes."""
        return (found for found in self.types if found.kind == Kind.BTF_KIND_DATASEC)

    def variables(self, section: Type) -> Iterator[Variable]:
        for index in range(section.vlen):
            place = section.tail + index * _SECINFO.size
            type_id, _, _ = _SECINFO.unpack_from(self.content, place)
            variable = self.type(type_id)
            if variable.kind in (Kind.BTF_KIND_VAR, Kind.BTF_KIND_FUNC):
                yield Variable(self.name(variable), variable.size_or_type, place)
            else:
                raise Malformed("L106", f"type {type_id} is not a variable", ".BTF", place)


def read_btf(content: bytes) -> Btf:
    """Reads a .BTF section. Raises `Malformed` (L106)."""
    magic, version, _, header_size, types_at, types_size, strings_at, strings_size = _header(content, _HEADER, ".BTF")
    if magic != _MAGIC or version != 1:
        raise Malformed("L106", f"magic {magic:#x}, version {version} is not BTF 1", ".BTF")
    types_at, strings_at = header_size + types_at, header_size + strings_at
    types_end, strings_end = types_at + types_size, strings_at + strings_size
    if types_end > len(content) or strings_end > len(content):
        raise Malformed("L106", "truncated", ".BTF", len(content))
    strings = content[strings_at:strings_end]
    if not strings or strings[0] or strings[-1]:
        raise Malformed("L106", "the strings do not begin and end with a zero", ".BTF", strings_at)
    return Btf(content, tuple(_types(content, types_at, types_end)), strings)


def _header(content: bytes, layout: struct.Struct, section: str) -> tuple[int, ...]:
    if len(content) < layout.size:
        raise Malformed("L106", "truncated header", section, len(content))
    fields: tuple[int, ...] = layout.unpack_from(content)
    if not layout.size <= fields[3] <= len(content):
        raise Malformed("L106", f"a header of {fields[3]} bytes", section, 4)
    return fields


def _types(content: bytes, position: int, end: int) -> Iterator[Type]:
    yield Type(0, Kind.BTF_KIND_UNKN, 0, 0, 0, 0)
    number = 0
    while position < end:
        if position + _TYPE.size > end:
            raise Malformed("L106", "the last type is cut off", ".BTF", position)
        name_at, described, size_or_type = _TYPE.unpack_from(content, position)
        kind, vlen = described >> 24 & 0x1F, described & 0xFFFF
        if kind not in _TAIL_SIZES:
            raise Malformed("L106", f"unknown kind of type {kind}", ".BTF", position)
        fixed, each = _TAIL_SIZES[kind]
        tail = position + _TYPE.size
        position = tail + fixed + each * vlen
        if position > end:
            raise Malformed("L106", "the last type is cut off", ".BTF", tail)
        number += 1
        yield Type(number, kind, name_at, vlen, size_or_type, tail)


class BtfExt(Struct, frozen=True):
    """Records by the name of the code section: (byte offset in it, the rest of the record's fields)."""

    functions: Mapping[str, tuple[tuple[int, int], ...]]
    lines: Mapping[str, tuple[tuple[int, int, int, int], ...]]


def read_btf_ext(content: bytes, btf: Btf) -> BtfExt:
    """Reads a .BTF.ext section. Raises `Malformed` (L106), also on CO-RE relocations, which nothing here applies."""
    magic, version, _, header_size, functions_at, functions_size, lines_at, lines_size = _header(
        content, _EXT_HEADER, ".BTF.ext"
    )
    if magic != _MAGIC or version != 1:
        raise Malformed("L106", f"magic {magic:#x}, version {version} is not BTF 1", ".BTF.ext")
    if header_size >= 32 and struct.unpack_from("<I", content, 28)[0]:
        raise Malformed("L106", "CO-RE relocations: the object was written for another loader", ".BTF.ext", 24)
    records = functools.partial(_records, content, btf)
    return BtfExt(
        functions={
            name: tuple(FUNC_INFO.unpack_from(content, at) for at in places)
            for name, places in records(header_size + functions_at, functions_size, FUNC_INFO.size)
        },
        lines={
            name: tuple(LINE_INFO.unpack_from(content, at) for at in places)
            for name, places in records(header_size + lines_at, lines_size, LINE_INFO.size)
        },
    )


def _records(content: bytes, btf: Btf, position: int, size: int, record_size: int) -> Iterator[tuple[str, range]]:
    """For each code section its name and where its records stand, which may be longer than what is read of them."""
    end = position + size
    if not size:
        return
    if end > len(content) or size < 4:
        raise Malformed("L106", "truncated", ".BTF.ext", len(content))
    stride = struct.unpack_from("<I", content, position)[0]
    if stride < record_size or stride % 4:
        raise Malformed("L106", f"records of {stride} bytes", ".BTF.ext", position)
    position += 4
    while position < end:
        if position + 8 > end:
            raise Malformed("L106", "the last table is cut off", ".BTF.ext", position)
        name_at, count = struct.unpack_from("<II", content, position)
        places = range(position + 8, position + 8 + count * stride, stride)
        if not count or places.stop > end:
            raise Malformed("L106", f"a table of {count} records", ".BTF.ext", position)
        yield btf.string(name_at), places
        position = places.stop


def fixed_up(btf: Btf, sizes: Mapping[str, int], offsets: Mapping[tuple[str, str], int]) -> bytes:
    """The BTF with the sizes of data sections and the offsets of their variables, which clang leaves to the linker.

    `offsets` are by (section, variable). The kernel wants variables in order of their offsets, and none beyond the end.
    """
    content = bytearray(btf.content)
    for section in btf.sections():
        name = btf.name(section)
        records = []
        for variable in btf.variables(section):
            type_id, offset, size = _SECINFO.unpack_from(content, variable.place)
            records.append((offsets.get((name, variable.name), offset), type_id, size))
        if name in sizes:
            struct.pack_into("<I", content, section.tail - 4, sizes[name])
        for index, (offset, type_id, size) in enumerate(sorted(records)):
            _SECINFO.pack_into(content, section.tail + index * _SECINFO.size, type_id, offset, size)
    return bytes(content)
