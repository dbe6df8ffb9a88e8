"""A compiled XDP program and a frame in, the maps that it looks into for this frame out: no kernel, no clock.

An interpreter of BPF (RFC 9669) as far as our programs go. Arrays are full of zeros, hashes are empty.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.spec import ObjectSpec
from runtime.uapi import MapType

LOW_32, LOW_64 = (1 << 32) - 1, (1 << 64) - 1
_STACK_BYTES = 512
_HASHES = {MapType.BPF_MAP_TYPE_HASH, MapType.BPF_MAP_TYPE_LRU_HASH}
_SIZES = {0x00: "I", 0x08: "H", 0x10: "B", 0x18: "Q"}
_LD_IMM64, _CALL, _EXIT, _JUMP = 0x18, 0x85, 0x95, 0x05
_LOOKUP, _JIFFIES, _REDIRECT_MAP = 1, 118, 51
_XDP_REDIRECT = 4
_ADD, _CMPXCHG, _FETCH = 0x00, 0xF0, 0x01

_ALU: Mapping[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: operator.lshift,
    0x70: operator.rshift,
    0xA0: operator.xor,
    0xB0: lambda _, value: value,
}
_JUMPS: Mapping[int, Callable[[int, int], bool]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
    0x40: lambda left, right: bool(left & right),
    0x50: operator.ne,
    0xA0: operator.lt,
    0xB0: operator.le,
}
_SIGNED_JUMPS: Mapping[int, Callable[[int, int], bool]] = {
    0x60: operator.gt,
    0x70: operator.ge,
    0xC0: operator.lt,
    0xD0: operator.le,
}


@dataclass
class Machine:
    """`looked_up` are the names of maps in the order of the lookups, `out` what redirect_map was asked for."""

    spec: ObjectSpec
    memory: dict[int, bytearray] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)
    out: int | None = None

    def run(self, frame: bytes) -> int:
        """What the object's program returns for a frame."""
        (program,) = self.spec.programs
        code = [struct.unpack_from("<BBhi", program.insns, at) for at in range(0, len(program.insns), 8)]
        maps = {reference.insn: reference.map for reference in program.maps}
        sections = {reference.insn: reference.section for reference in program.sections}
        packet = self._allocate(frame)
        context = self._allocate(struct.pack("<6I", packet, packet + len(frame), 0, 0, 0, 0))
        names = {self._allocate(bytes(8)): name for name in set(maps.values())}
        addresses = {name: address for address, name in names.items()}
        data = {found.name: self._allocate(found.content) for found in self.spec.data}
        registers = [0, context, *([0] * 8), self._allocate(bytes(_STACK_BYTES)) + _STACK_BYTES]
        at = 0
        while True:
            opcode, both, offset, immediate = code[at]
            target, source = both & 15, both >> 4
            at += 1
            if opcode == _EXIT:
                return registers[0]
            if opcode == _LD_IMM64:
                value = (code[at][3] & LOW_32) << 32 | immediate & LOW_32
                if at - 1 in maps:
                    value = addresses[maps[at - 1]]
                elif at - 1 in sections:
                    value = data[sections[at - 1]] + code[at][3]
                registers[target] = value
                at += 1
            elif opcode == _CALL:
                registers[0] = self._call(immediate, registers, names)
            elif opcode & 7 in (5, 6):
                taken = opcode == _JUMP or _jumps(opcode, registers[target], registers[source], immediate)
                at += offset if taken else 0
            elif opcode & 7 in (4, 7):
                registers[target] = _computed(opcode, registers[target], registers[source], immediate)
            else:
                self._access(opcode, registers, (target, source), offset, immediate)

    def _allocate(self, content: bytes) -> int:
        address = (len(self.memory) + 1) << 16
        self.memory[address] = bytearray(content)
        return address

    def _place(self, address: int, size: int) -> tuple[bytearray, int]:
        base = max(start for start in self.memory if start <= address)
        assert address - base + size <= len(self.memory[base]), f"{address:#x} is beyond what is there"
        return self.memory[base], address - base

    def _call(self, helper: int, registers: Sequence[int], names: Mapping[int, str]) -> int:
        if helper == _LOOKUP:
            name = names[registers[1]]
            self.looked_up.append(name)
            found = next(found for found in self.spec.maps if found.name == name)
            return 0 if found.type in _HASHES else self._allocate(bytes(found.value_size))
        if helper == _REDIRECT_MAP:
            self.out = registers[2]
            return _XDP_REDIRECT
        assert helper == _JIFFIES, f"helper {helper}"
        return 1 << 40

    def _access(self, opcode: int, registers: list[int], both: tuple[int, int], offset: int, immediate: int) -> None:
        target, source = both
        form = "<" + _SIZES[opcode & 0x18]
        loads = opcode & 7 == 1
        content, at = self._place(registers[source if loads else target] + offset & LOW_64, struct.calcsize(form))
        (found,) = struct.unpack_from(form, content, at)
        if loads:
            registers[target] = found
            return
        value = immediate if opcode & 7 == 2 else registers[source]
        if opcode & 0xE0 == 0xC0:
            value = self._atomic(immediate, registers, source, found)
        struct.pack_into(form, content, at, value & ((1 << 8 * struct.calcsize(form)) - 1))

    def _atomic(self, operation: int, registers: list[int], source: int, found: int) -> int:
        if operation == _CMPXCHG | _FETCH:
            wanted, registers[0] = registers[0], found
            return registers[source] if found == wanted else found
        assert operation & ~_FETCH == _ADD, f"atomic operation {operation:#x}"
        value = found + registers[source]
        if operation & _FETCH:
            registers[source] = found
        return value


def _computed(opcode: int, left: int, right: int, immediate: int) -> int:
    mask = LOW_64 if opcode & 7 == 7 else LOW_32
    bits = 63 if mask == LOW_64 else 31
    value = (right if opcode & 8 else immediate) & mask
    if opcode & 0xF0 in (0x60, 0x70):
        value &= bits
    return _ALU[opcode & 0xF0](left & mask, value) & mask


def _jumps(opcode: int, left: int, right: int, immediate: int) -> bool:
    mask = LOW_64 if opcode & 7 == 5 else LOW_32
    left, right = left & mask, (right if opcode & 8 else immediate) & mask
    if opcode & 0xF0 in _SIGNED_JUMPS:
        sign = (mask >> 1) + 1
        return _SIGNED_JUMPS[opcode & 0xF0]((left ^ sign) - sign, (right ^ sign) - sign)
    return _JUMPS[opcode & 0xF0](left, right)
