"""What an object file says, as frozen values: the same file gives the same spec on any machine, without a kernel."""

from __future__ import annotations

from msgspec import Struct


class MapSpec(Struct, frozen=True):
    """A map of `.maps`. `type` is a number of enum bpf_map_type, sizes are bytes.

    `values` are initial entries: (index, name of a program or map). `inner` describes what a map of maps holds.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    inner: MapSpec | None = None
    values: tuple[tuple[int, str], ...] = ()


class DataSymbol(Struct, frozen=True):
    """A variable in a data section: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


class DataSection(Struct, frozen=True):
    """Global variables (`.rodata*`, `.data*`, `.bss*`) and their first content; becomes an array map of one element."""

    name: str
    content: bytes
    symbols: tuple[DataSymbol, ...]

    @property
    def read_only(self) -> bool:
        return self.name.startswith(".rodata")


class MapReference(Struct, frozen=True):
    """Instruction `insn` loads the address of a map."""

    insn: int
    map: str


class DataReference(Struct, frozen=True):
    """Instruction `insn` loads the address of a byte in a data section; the offset stands in the instruction."""

    insn: int
    section: str


class ValueReference(Struct, frozen=True):
    """Instruction `insn` loads a 64-bit number that the loader is to write into it: the value of `symbol`."""

    insn: int
    symbol: str


class FunctionPlace(Struct, frozen=True):
    """A function of a linked program: from instruction `insn` on."""

    name: str
    insn: int


class ProgramSpec(Struct, frozen=True):
    """An entry function with every function that it calls behind it; only maps, data sections and values are open.

    `func_info` and `line_info` are arrays of struct bpf_func_info and bpf_line_info that count in instructions of
    `insns`; they are empty where the object has none for some function.
    """

    name: str
    section: str
    insns: bytes
    functions: tuple[FunctionPlace, ...]
    maps: tuple[MapReference, ...]
    sections: tuple[DataReference, ...]
    values: tuple[ValueReference, ...]
    func_info: bytes
    line_info: bytes


class ObjectSpec(Struct, frozen=True):
    """A whole object. `btf` is ready for the kernel, or empty."""

    name: str
    license: str
    programs: tuple[ProgramSpec, ...]
    maps: tuple[MapSpec, ...]
    data: tuple[DataSection, ...]
    btf: bytes
