"""The bytes of an ELF file in; its sections, symbols and relocations out, each checked to lie where it says.

pyelftools describes the header and the section table; it may throw anything on a corrupt file, and whatever it throws
becomes `Malformed`. Section contents, symbols and relocations are then sliced out of the bytes themselves.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from elftools.elf.structs import ELFStructs

EM_BPF = 247
ET_REL = 1
SHF_ALLOC = 2
SHF_EXECINSTR = 4
SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
STB_LOCAL = 0
STB_WEAK = 2
STT_OBJECT = 1
STT_FUNC = 2
STT_SECTION = 3

NOBITS_LIMIT = 16 << 20
"""The largest section of zeros that is believed; a corrupt size must not be allocated."""

UNREAD_RELOCATIONS = (".rel.debug", ".rel.eh_frame", ".rel.BTF")
"""Relocation sections that nothing here needs: debuggers' tables, and BTF, where clang left the numbers in place."""

_HEADER_SIZE = 64
_SECTION_HEADER_SIZE = 64
_SYMBOL = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QQ")


class Malformed(Exception):
    """The object is corrupt or not ours: what is wrong, in which section, at which offset of it."""

    def __init__(self, code: str, message: str, section: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.section = section
        self.offset = offset

    @property
    def place(self) -> str:
        return f"section `{self.section}`, offset {self.offset:#x}" if self.section else f"offset {self.offset:#x}"


class RelocationType(IntEnum):
    """R_BPF_*: what the linker is to write (kernel Documentation/bpf/llvm_reloc.rst)."""

    R_BPF_64_64 = 1  # a 64-bit immediate load: map, data section or function
    R_BPF_64_ABS64 = 2  # eight bytes of data
    R_BPF_64_32 = 10  # a call


class Section(Struct, frozen=True):
    """A section; `type` is its name in pyelftools (`SHT_REL`). `content` is empty for SHT_NOBITS: `size` zeros."""

    index: int
    name: str
    type: str
    flags: int
    size: int
    link: int
    info: int
    content: bytes

    @property
    def executable(self) -> bool:
        return bool(self.flags & SHF_EXECINSTR)


class Symbol(Struct, frozen=True):
    """A symbol; `section` is an index into the section table, or a reserved number (0: defined elsewhere)."""

    name: str
    value: int
    size: int
    type: int
    binding: int
    section: int


class Relocation(Struct, frozen=True):
    """A place in a section, and the symbol that it refers to."""

    offset: int
    type: int
    symbol: Symbol


class ElfFile(Struct, frozen=True):
    """A relocatable BPF object. `relocations` are by the index of the section that they apply to."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: Mapping[int, tuple[Relocation, ...]]

    def section(self, name: str) -> Section | None:
        return next((section for section in self.sections if section.name == name), None)


def read_elf(content: bytes) -> ElfFile:
    """Reads a little-endian 64-bit relocatable BPF object. Raises `Malformed`."""
    _check_header(content)
    sections = _read_sections(content)
    tables = [section for section in sections if section.type == "SHT_SYMTAB"]
    if len(tables) != 1:
        raise Malformed("L101", f"{len(tables)} symbol tables where one is needed")
    symbols = _read_symbols(tables[0], sections)
    return ElfFile(sections, symbols, _read_relocations(sections, tables[0], symbols))


def _check_header(content: bytes) -> None:
    if content[:4] != b"\x7fELF":
        raise Malformed("L101", "not an ELF file")
    if len(content) < _HEADER_SIZE:
        raise Malformed("L101", f"truncated: {len(content)} bytes are no ELF header", offset=len(content))
    if content[4] != 2 or content[5] != 1:
        raise Malformed("L102", "not a 64-bit little-endian object", offset=4)
    kind, machine = struct.unpack_from("<HH", content, 16)
    if machine != EM_BPF:
        raise Malformed("L102", f"made for ELF machine {machine}, not for BPF ({EM_BPF})", offset=18)
    if kind != ET_REL:
        raise Malformed("L102", f"ELF type {kind} is not a relocatable object ({ET_REL})", offset=16)


def _read_sections(content: bytes) -> tuple[Section, ...]:
    structs = bpf_structs()
    try:
        header = structs.Elf_Ehdr.parse(content)
        table, count, names = header["e_shoff"], header["e_shnum"], header["e_shstrndx"]
        if header["e_shentsize"] != _SECTION_HEADER_SIZE or not names < count < SHN_LORESERVE:
            raise Malformed("L101", "the ELF header describes no section table", offset=58)
        if table + count * _SECTION_HEADER_SIZE > len(content):
            raise Malformed("L101", "truncated: the section table lies behind the end", offset=table)
        places = range(table, table + count * _SECTION_HEADER_SIZE, _SECTION_HEADER_SIZE)
        headers = [structs.Elf_Shdr.parse(content[at : at + _SECTION_HEADER_SIZE]) for at in places]
    except Malformed:
        raise
    except Exception as error:  # pyelftools asserts, indexes and decodes as it goes: any exception means a corrupt file
        raise Malformed("L101", f"corrupt section table ({type(error).__name__}: {error})") from error
    strings = _slice(content, headers[names], f"[{names}]")
    return tuple(_section(content, index, header, strings) for index, header in enumerate(headers))


@functools.cache
def bpf_structs() -> ELFStructs:
    """What pyelftools knows of the structures of a BPF object; the rest of it, DWARF above all, is slow to import."""
    from elftools.elf.structs import ELFStructs

    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs("ET_REL", "EM_BPF", "ELFOSABI_SYSV")
    return structs


def _section(content: bytes, index: int, header: Mapping[str, Any], strings: bytes) -> Section:
    name = _string(strings, header["sh_name"], "section names")
    kind, flags, size = str(header["sh_type"]), header["sh_flags"], header["sh_size"]
    if kind == "SHT_NOBITS" and size > NOBITS_LIMIT:
        raise Malformed("L101", f"{size} bytes of zeros are more than {NOBITS_LIMIT}", name)
    section_content = b"" if kind in ("SHT_NOBITS", "SHT_NULL") else _slice(content, header, name)
    return Section(index, name, kind, flags, size, header["sh_link"], header["sh_info"], section_content)


def _slice(content: bytes, header: Mapping[str, Any], name: str) -> bytes:
    start, end = header["sh_offset"], header["sh_offset"] + header["sh_size"]
    if end > len(content):
        message = f"truncated: it should end at byte {end} of a file of {len(content)}"
        raise Malformed("L101", message, name, max(len(content) - start, 0))
    return content[start:end]


def _string(strings: bytes, at: int, table: str) -> str:
    """The zero-terminated string at `at`."""
    end = strings.find(b"\0", at)
    if at >= len(strings) or end < 0:
        raise Malformed("L101", "a name lies outside of the string table", table, at)
    try:
        return strings[at:end].decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("L101", "a name is not ASCII", table, at) from None


def _read_symbols(table: Section, sections: Sequence[Section]) -> tuple[Symbol, ...]:
    if table.link >= len(sections):
        raise Malformed("L101", f"there is no section {table.link} for the symbols' names", table.name)
    if len(table.content) % _SYMBOL.size:
        raise Malformed("L101", "the last symbol is cut off", table.name, len(table.content))
    strings = sections[table.link].content
    return tuple(
        # Section symbols have no name of their own: they go by their section's.
        Symbol(
            sections[shndx].name
            if info & 15 == STT_SECTION and shndx < len(sections)
            else _string(strings, name, "names"),
            value,
            size,
            info & 15,
            info >> 4,
            shndx,
        )
        for name, info, _, shndx, value, size in _SYMBOL.iter_unpack(table.content)
    )


def _read_relocations(
    sections: Sequence[Section], table: Section, symbols: Sequence[Symbol]
) -> dict[int, tuple[Relocation, ...]]:
    relocations: dict[int, tuple[Relocation, ...]] = {}
    for section in sections:
        if section.type == "SHT_RELA":
            raise Malformed("L104", "relocations with addends (RELA) are not what BPF objects have", section.name)
        if section.type != "SHT_REL" or section.name.startswith(UNREAD_RELOCATIONS):
            continue
        if section.info >= len(sections) or section.link != table.index:
            raise Malformed("L104", f"applies to section {section.info} and symbol table {section.link}", section.name)
        found = tuple(_relocations(section, sections[section.info], symbols))
        relocations[section.info] = relocations.get(section.info, ()) + found
    return relocations


def _relocations(section: Section, target: Section, symbols: Sequence[Symbol]) -> Iterator[Relocation]:
    if len(section.content) % _REL.size:
        raise Malformed("L104", "the last relocation is cut off", section.name, len(section.content))
    for index, (offset, info) in enumerate(_REL.iter_unpack(section.content)):
        number = info >> 32
        if number >= len(symbols):
            raise Malformed("L104", f"there is no symbol {number}", section.name, index * _REL.size)
        if offset + 8 > target.size:
            raise Malformed("L104", f"a relocation lies at {offset:#x}", target.name, offset)
        yield Relocation(offset, info & 0xFFFFFFFF, symbols[number])
