"""Code sections in, whole programs out: instructions checked, calls resolved, called functions appended.

Instruction set: RFC 9669. The verifier judges what a program does; what is checked here is that it is a program at
all, so that no corrupt object reaches the kernel, and that every reference has a target.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from .elf import Malformed, Relocation, RelocationType
from .spec import DataReference, FunctionPlace, MapReference, ValueReference
from .uapi import PseudoSource

INSN_SIZE = 8
INSN = struct.Struct("<BBhi")

PROGRAM_LIMIT = 1_000_000
"""Instructions of one program (BPF_COMPLEXITY_LIMIT_INSNS in the kernel)."""

_LD_IMM64 = 0x18
_NUMBER = 0  # src_reg of a 64-bit load of nothing but a number
_CALL = 0x85
_EXIT = 0x95
_JA, _JA32 = 0x05, 0x06
_LAST_REGISTER = 10

_ALU = {operation | source | group for operation in range(0, 0xE0, 0x10) for source in (0, 8) for group in (4, 7)}
_JUMPS = {
    operation | source | group
    for operation in (*range(0x10, 0x80, 0x10), *range(0xA0, 0xE0, 0x10))
    for source in (0, 8)
    for group in (5, 6)
} | {_JA, _JA32, 0xE5}
_LOADS = {mode | size | 1 for mode in (0x60, 0x80) for size in (0, 8, 0x10, 0x18)} | {
    0x20,
    0x28,
    0x30,
    0x40,
    0x48,
    0x50,
}
_STORES = {mode | size | group for mode, group in ((0x60, 2), (0x60, 3), (0xC0, 3)) for size in (0, 8, 0x10, 0x18)}
_OPCODES = frozenset(_ALU | _JUMPS | _LOADS | _STORES | {_LD_IMM64, _CALL, _EXIT})

FunctionId = tuple[int, int]
"""Where a function begins: section index, byte offset."""


class Function(Struct, frozen=True):
    """A function as it lies in the object."""

    name: str
    section_index: int
    section: str
    start: int
    code: bytes

    @property
    def id(self) -> FunctionId:
        return self.section_index, self.start

    @property
    def end(self) -> int:
        return self.start + len(self.code)

    def fault(self, code: str, insn: int, message: str) -> Malformed:
        return Malformed(code, f"`{self.name}`: {message}", self.section, self.start + insn * INSN_SIZE)


class CallSite(Struct, frozen=True):
    """Instruction `insn` calls the function at `target`, or loads its address (`pointer`)."""

    insn: int
    target: FunctionId
    pointer: bool


class MapTarget(Struct, frozen=True):
    """A reference leads to this map."""

    name: str


class DataTarget(Struct, frozen=True):
    """A reference leads to this byte of a data section."""

    section: str
    offset: int


class CodeTarget(Struct, frozen=True):
    """A reference leads to this byte of a code section."""

    section_index: int
    offset: int


class ValueTarget(Struct, frozen=True):
    """A reference stands for the number that the loader gives to this symbol."""

    symbol: str


Target = MapTarget | DataTarget | CodeTarget | ValueTarget
Resolve = Callable[[Relocation, int], Target]
"""(relocation, the offset that stands in the instruction) → what it refers to; raises `Malformed`."""


class References(Struct, frozen=True):
    """Everything that a function refers to, by its own instruction numbers."""

    calls: tuple[CallSite, ...]
    maps: tuple[MapReference, ...]
    data: tuple[tuple[int, DataTarget], ...]
    values: tuple[ValueReference, ...]


def check(function: Function) -> None:
    """Raises `Malformed` (L105) unless the code is a sequence of known instructions that stays within itself."""
    insns = list(INSN.iter_unpack(function.code))
    wide = {index + 1 for index in _wide(function, insns)}
    for index, (opcode, registers, offset, imm) in enumerate(insns):
        if index in wide:
            continue
        if opcode not in _OPCODES:
            raise function.fault("L105", index, f"unknown instruction {opcode:#04x}")
        if registers & 15 > _LAST_REGISTER or registers >> 4 > _LAST_REGISTER:
            raise function.fault("L105", index, f"there is no register {max(registers & 15, registers >> 4)}")
        if opcode in _JUMPS:
            target = index + 1 + (imm if opcode == _JA32 else offset)
            if not 0 <= target < len(insns) or target in wide:
                raise function.fault("L105", index, f"jumps to instruction {target} of {len(insns)}")
    if insns[-1][0] not in (_EXIT, _JA, _JA32) or len(insns) - 1 in wide:
        raise function.fault("L105", len(insns) - 1, "runs over its end")


def _wide(function: Function, insns: list[tuple[int, ...]]) -> Iterator[int]:
    """The instructions that take two places."""
    index = 0
    while index < len(insns):
        if insns[index][0] != _LD_IMM64:
            index += 1
            continue
        if index + 1 == len(insns) or insns[index + 1][:3] != (0, 0, 0):
            raise function.fault("L105", index, "a 64-bit load without its second half")
        yield index
        index += 2


def references(function: Function, relocations: Mapping[int, Relocation], resolve: Resolve) -> References:
    """What the function refers to: by relocation, or by a call within its own section. Raises `Malformed` (L104)."""
    calls: list[CallSite] = []
    maps: list[MapReference] = []
    data: list[tuple[int, DataTarget]] = []
    values: list[ValueReference] = []
    skip = False
    for index, (opcode, registers, _, imm) in enumerate(INSN.iter_unpack(function.code)):
        relocation = relocations.get(function.start + index * INSN_SIZE)
        if skip or opcode not in (_CALL, _LD_IMM64):
            if relocation:
                raise function.fault("L104", index, f"a relocation to `{relocation.symbol.name}` on no reference")
            skip = False
            continue
        skip = opcode == _LD_IMM64
        if opcode == _CALL:
            target = _called(function, index, registers >> 4, imm, relocation, resolve)
            if target:
                calls.append(CallSite(index, target, pointer=False))
        elif relocation:
            if relocation.type != RelocationType.R_BPF_64_64:
                raise function.fault("L104", index, f"relocation type {relocation.type} on a 64-bit load")
            match resolve(relocation, imm):
                case MapTarget(name):
                    maps.append(MapReference(index, name))
                case DataTarget() as place:
                    data.append((index, place))
                case CodeTarget(section_index, offset):
                    calls.append(CallSite(index, (section_index, offset), pointer=True))
                case ValueTarget(symbol):
                    values.append(ValueReference(index, symbol))
        elif registers >> 4:
            raise function.fault("L104", index, "a reference without a relocation")
    return References(tuple(calls), tuple(maps), tuple(data), tuple(values))


def _called(
    function: Function, index: int, source: int, imm: int, relocation: Relocation | None, resolve: Resolve
) -> FunctionId | None:
    """The function that a call goes to; None for a call of the kernel's own."""
    if relocation:
        if relocation.type != RelocationType.R_BPF_64_32:
            raise function.fault("L104", index, f"relocation type {relocation.type} on a call")
        target = resolve(relocation, (imm + 1) * INSN_SIZE)
        if source != PseudoSource.BPF_PSEUDO_CALL or not isinstance(target, CodeTarget):
            raise function.fault("L104", index, f"calls `{relocation.symbol.name}`, which is no function")
        return target.section_index, target.offset
    if source == PseudoSource.BPF_PSEUDO_CALL:
        return function.section_index, function.start + (index + 1 + imm) * INSN_SIZE
    if source:
        raise function.fault("L104", index, "calls a kernel function by its BTF id, which is not supported")
    return None


class LinkedProgram(Struct, frozen=True):
    """`places` says where each function went; `insns` lack only file descriptors and values."""

    insns: bytes
    places: tuple[tuple[Function, int], ...]
    maps: tuple[MapReference, ...]
    data: tuple[DataReference, ...]
    values: tuple[ValueReference, ...]

    @property
    def functions(self) -> tuple[FunctionPlace, ...]:
        return tuple(FunctionPlace(function.name, at) for function, at in self.places)


def link(
    entry: Function, functions: Mapping[FunctionId, Function], found: Callable[[Function], References]
) -> LinkedProgram:
    """`entry` followed by each function that it reaches, once; calls become relative as the kernel wants them."""
    order = _reached(entry, functions, found)
    places: dict[FunctionId, int] = {}
    position = 0
    for function in order:
        places[function.id] = position
        position += len(function.code) // INSN_SIZE
    if position > PROGRAM_LIMIT:
        raise entry.fault("L105", 0, f"with what it calls it has {position} instructions, of at most {PROGRAM_LIMIT}")
    insns = bytearray(b"".join(function.code for function in order))
    maps: list[MapReference] = []
    data: list[DataReference] = []
    values: list[ValueReference] = []
    for function in order:
        base, refers = places[function.id], found(function)
        for site in refers.calls:
            source = PseudoSource.BPF_PSEUDO_FUNC if site.pointer else PseudoSource.BPF_PSEUDO_CALL
            _point(insns, base + site.insn, source, places[site.target] - (base + site.insn) - 1)
            if site.pointer:
                _set_imm(insns, base + site.insn + 1, 0)
        for reference in refers.maps:
            maps.append(MapReference(base + reference.insn, reference.map))
            _point(insns, base + reference.insn, PseudoSource.BPF_PSEUDO_MAP_FD, 0)
        for insn, target in refers.data:
            data.append(DataReference(base + insn, target.section))
            _point(insns, base + insn, PseudoSource.BPF_PSEUDO_MAP_VALUE, 0)
            _set_imm(insns, base + insn + 1, target.offset)
        for value in refers.values:
            values.append(ValueReference(base + value.insn, value.symbol))
            _point(insns, base + value.insn, _NUMBER, 0)
            _set_imm(insns, base + value.insn + 1, 0)
    order_places = tuple((function, places[function.id]) for function in order)
    return LinkedProgram(bytes(insns), order_places, tuple(maps), tuple(data), tuple(values))


def _reached(
    entry: Function, functions: Mapping[FunctionId, Function], found: Callable[[Function], References]
) -> list[Function]:
    order, seen = [entry], {entry.id}
    for function in order:  # grows while it is gone through
        for site in found(function).calls:
            target = functions.get(site.target)
            if target is None:
                raise function.fault("L104", site.insn, f"no function begins at offset {site.target[1]:#x}")
            if target.id not in seen:
                seen.add(target.id)
                order.append(target)
    return order


def _point(insns: bytearray, index: int, source: int, imm: int) -> None:
    at = index * INSN_SIZE
    insns[at + 1] = insns[at + 1] & 0x0F | source << 4
    _set_imm(insns, index, imm)


def _set_imm(insns: bytearray, index: int, imm: int) -> None:
    struct.pack_into("<i", insns, index * INSN_SIZE + 4, imm)


def with_fd(insns: bytearray, index: int, fd: int) -> None:
    """Writes a map's file descriptor into a 64-bit load."""
    _set_imm(insns, index, fd)


def with_value(insns: bytearray, index: int, value: int) -> None:
    """Writes a number of 64 bits into the two halves of a 64-bit load."""
    for half in (0, 1):
        struct.pack_into("<I", insns, (index + half) * INSN_SIZE + 4, value >> 32 * half & 0xFFFFFFFF)
