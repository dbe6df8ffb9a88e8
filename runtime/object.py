"""The bytes of an object file in, an `ObjectSpec` out; a corrupt or foreign object is told by section and offset."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.diagnostic import Diagnostic, LoadFailed

from .btf import FUNC_INFO, LINE_INFO, Btf, BtfExt, fixed_up, read_btf, read_btf_ext
from .elf import (
    SHF_ALLOC,
    SHN_UNDEF,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_OBJECT,
    ElfFile,
    Malformed,
    Relocation,
    Section,
    Symbol,
    read_elf,
)
from .instructions import (
    INSN_SIZE,
    CodeTarget,
    DataTarget,
    Function,
    FunctionId,
    LinkedProgram,
    MapTarget,
    References,
    Target,
    ValueTarget,
    check,
    link,
    references,
)
from .maps import MapPlace, read_maps
from .spec import DataSection, DataSymbol, ObjectSpec, ProgramSpec

_DATA_SECTIONS = (".rodata", ".data", ".bss")
_LICENSE_LIMIT = 128
_KEPT = 256  # objects, each with some 40 kB of content
_BTF_OFFSET_LIMIT = 1 << 32


@functools.lru_cache(maxsize=_KEPT)
def read_object(content: bytes, name: str = "object") -> ObjectSpec:
    """Reads an object file; `name` stands for it in messages. Raises `LoadFailed` (L101 to L106).

    The last ones are kept: a process that applies a chain again and again reads only what has changed.
    """
    try:
        return _Reader(read_elf(content), name).spec()
    except Malformed as malformed:
        note = f"in {name}: {malformed.place}"
        raise LoadFailed(Diagnostic(malformed.code, malformed.message, notes=(note,))) from malformed


def is_data_section(name: str) -> bool:
    """`.rodata`, `.data.x`, …: not `.database`."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in _DATA_SECTIONS)


@dataclass(frozen=True)
class _Reader:
    """The steps from sections to a spec; each table is made once, when it is first asked for."""

    elf: ElfFile
    name: str

    def spec(self) -> ObjectSpec:
        if not self.entries:
            raise Malformed("L101", "there is no program in it")
        return ObjectSpec(
            name=self.name,
            license=self._license(),
            programs=tuple(self._program(entry) for entry in self.entries),
            maps=tuple(place.spec for place in self.maps),
            data=self.data,
            btf=self._loadable_btf(),
        )

    # --- code ---

    @functools.cached_property
    def functions(self) -> dict[FunctionId, Function]:
        functions: dict[FunctionId, Function] = {}
        for symbol in self.elf.symbols:
            if symbol.type == STT_FUNC and symbol.section != SHN_UNDEF:
                function = self._function(symbol)
                functions[function.id] = function
        return functions

    def _function(self, symbol: Symbol) -> Function:
        section = self._section(symbol)
        if not section.executable:
            raise Malformed(
                "L101", f"function `{symbol.name}` is in a section without code", section.name, symbol.value
            )
        end = symbol.value + symbol.size
        if end > len(section.content) or not symbol.size or symbol.size % INSN_SIZE or symbol.value % INSN_SIZE:
            message = f"function `{symbol.name}` should be the {symbol.size} bytes up to {end:#x}"
            raise Malformed("L101", message, section.name, symbol.value)
        function = Function(symbol.name, section.index, section.name, symbol.value, section.content[symbol.value : end])
        check(function)
        return function

    @functools.cached_property
    def entries(self) -> tuple[Function, ...]:
        """Global functions outside of .text: static ones there, and all in .text, are only called."""
        entries: dict[str, Function] = {}
        for symbol in self.elf.symbols:
            if symbol.type != STT_FUNC or symbol.section == SHN_UNDEF or symbol.binding == STB_LOCAL:
                continue
            function = self.functions[symbol.section, symbol.value]
            if function.section == ".text":
                continue
            if symbol.name in entries or function.name != symbol.name:
                raise Malformed("L101", f"function `{symbol.name}` is there twice", function.section, symbol.value)
            entries[symbol.name] = function
        return tuple(sorted(entries.values(), key=lambda function: function.id))

    @functools.cached_property
    def _found(self) -> dict[FunctionId, References]:
        return {}

    def _references(self, function: Function) -> References:
        if function.id not in self._found:
            relocations = self._code_relocations.get(function.section_index, {})
            self._found[function.id] = references(function, relocations, self._resolve)
        return self._found[function.id]

    @functools.cached_property
    def _code_relocations(self) -> dict[int, dict[int, Relocation]]:
        code: dict[int, dict[int, Relocation]] = {}
        for index, relocations in self.elf.relocations.items():
            section = self.elf.sections[index]
            if not section.executable:
                continue
            code[index] = {relocation.offset: relocation for relocation in relocations}
            odd = next((relocation.offset for relocation in relocations if relocation.offset % INSN_SIZE), None)
            if odd is not None or len(code[index]) != len(relocations):
                raise Malformed("L104", "relocations that are not one to an instruction", section.name, odd or 0)
        return code

    def _resolve(self, relocation: Relocation, addend: int) -> Target:
        symbol = relocation.symbol
        if (symbol.section, symbol.binding) == (SHN_UNDEF, STB_WEAK) and symbol.name:
            if addend:
                raise Malformed("L104", f"a reference adds {addend} to `{symbol.name}`, whose value is not known yet")
            return ValueTarget(symbol.name)
        section = self._section(symbol)
        offset = symbol.value + addend
        if section.executable:
            return CodeTarget(section.index, offset)
        if section.name == ".maps":
            place = next((place for place in self.maps if place.offset == offset), None)
            if place is None:
                raise Malformed("L104", f"`{symbol.name}` leads to no map", section.name, offset)
            return MapTarget(place.spec.name)
        if any(section.name == loaded.name for loaded in self.data):
            if not 0 <= offset < section.size:
                raise Malformed("L104", f"`{symbol.name}` leads behind the section's end", section.name, offset)
            if self.elf.relocations.get(section.index):
                raise Malformed("L104", "holds addresses, which a map cannot hold", section.name)
            return DataTarget(section.name, offset)
        raise Malformed(
            "L104", f"a program refers to `{symbol.name}` in a section that is not loaded", section.name, offset
        )

    def _section(self, symbol: Symbol) -> Section:
        if symbol.section == SHN_UNDEF:
            raise Malformed("L104", f"`{symbol.name}` is declared but not defined")
        if symbol.section >= len(self.elf.sections):
            raise Malformed("L101", f"`{symbol.name}` is in section {symbol.section}, which is not there")
        return self.elf.sections[symbol.section]

    def _program(self, entry: Function) -> ProgramSpec:
        linked = link(entry, self.functions, self._references)
        func_info, line_info = self._debug_records(linked)
        return ProgramSpec(
            name=entry.name,
            section=entry.section,
            insns=linked.insns,
            functions=linked.functions,
            maps=linked.maps,
            sections=linked.data,
            values=linked.values,
            func_info=func_info,
            line_info=line_info,
        )

    # --- maps and data ---

    @functools.cached_property
    def maps(self) -> tuple[MapPlace, ...]:
        if self.elf.section(".maps") is None:
            return ()
        if self.btf is None:
            raise Malformed("L106", "maps are described by BTF, and there is none: compile with -g", ".maps")
        return read_maps(self.elf, self.btf)

    @functools.cached_property
    def data(self) -> tuple[DataSection, ...]:
        sections = [s for s in self.elf.sections if is_data_section(s.name) and s.flags & SHF_ALLOC and s.size]
        names = [section.name for section in sections]
        if len(set(names)) != len(names):
            raise Malformed("L101", "two data sections have the same name", names[-1])
        return tuple(self._data_section(section) for section in sections)

    def _data_section(self, section: Section) -> DataSection:
        symbols = tuple(sorted(self._data_symbols(section), key=lambda symbol: (symbol.offset, symbol.name)))
        content = section.content if section.type != "SHT_NOBITS" else bytes(section.size)
        return DataSection(section.name, content, symbols)

    def _data_symbols(self, section: Section) -> Iterator[DataSymbol]:
        for symbol in self.elf.symbols:
            if symbol.section != section.index or symbol.type != STT_OBJECT:
                continue
            if symbol.value + symbol.size > section.size:
                raise Malformed("L101", f"`{symbol.name}` ends behind the section's end", section.name, symbol.value)
            yield DataSymbol(symbol.name, symbol.value, symbol.size)

    def _license(self) -> str:
        section = self.elf.section("license")
        if section is None:
            raise Malformed("L101", "there is no section `license`")
        text = section.content.split(b"\0", 1)[0]
        if not text.isascii() or not 0 < len(text) < _LICENSE_LIMIT:
            raise Malformed("L101", "not the name of a license", section.name)
        return text.decode("ascii")

    # --- BTF ---

    @functools.cached_property
    def btf(self) -> Btf | None:
        section = self.elf.section(".BTF")
        return read_btf(section.content) if section else None

    @functools.cached_property
    def btf_ext(self) -> BtfExt | None:
        section = self.elf.section(".BTF.ext")
        return read_btf_ext(section.content, self.btf) if section and self.btf else None

    def _loadable_btf(self) -> bytes:
        if self.btf is None:
            return b""
        sections = self.elf.sections
        sizes = {section.name: section.size for section in sections if section.flags & SHF_ALLOC}
        offsets = {
            (sections[symbol.section].name, symbol.name): symbol.value
            for symbol in self.elf.symbols
            if symbol.binding != STB_LOCAL
            and symbol.section < len(sections)
            and symbol.value < min(sections[symbol.section].size, _BTF_OFFSET_LIMIT)
        }
        return fixed_up(self.btf, sizes, offsets)

    def _debug_records(self, linked: LinkedProgram) -> tuple[bytes, bytes]:
        """func_info and line_info of a linked program; the kernel takes them for all of its functions or for none."""
        if self.btf is None or self.btf_ext is None:
            return b"", b""
        func_info, line_info = bytearray(), bytearray()
        for function, at in linked.places:
            ids = _within(function, at, self.btf_ext.functions)
            lines = _within(function, at, self.btf_ext.lines)
            if [insn for insn, *_ in ids] != [at] or not lines or lines[0][0] != at:
                return b"", b""
            for _, file, text, _ in lines:
                if max(file, text) >= len(self.btf.strings):
                    raise Malformed("L106", f"a line of `{function.name}` without its text", ".BTF.ext")
            func_info += b"".join(FUNC_INFO.pack(*record) for record in ids)
            line_info += b"".join(LINE_INFO.pack(*record) for record in lines)
        return bytes(func_info), bytes(line_info)


def _within(function: Function, at: int, records: Mapping[str, tuple[tuple[int, ...], ...]]) -> list[tuple[int, ...]]:
    """The records of one function, their byte offsets in the section turned into instructions of the program."""
    found = sorted(record for record in records.get(function.section, ()) if function.start <= record[0] < function.end)
    offsets = [record[0] for record in found]
    if len(set(offsets)) != len(offsets) or any(offset % INSN_SIZE for offset in offsets):
        raise Malformed("L106", f"records of `{function.name}` that are not one to an instruction", ".BTF.ext")
    return [((offset - function.start) // INSN_SIZE + at, *rest) for offset, *rest in found]
