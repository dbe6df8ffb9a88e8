"""A program's instructions → its lookups of which it is not plain which map they are in.

Only where it is does the verifier put an array's lookup in line: else it is an indirect call of many nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.instructions import INSN
from runtime.spec import ProgramSpec

_CALL, _MOV64, _LOOKUP, _MAP_ARGUMENT, _LAST_ARGUMENT = 0x85, 0xBF, 1, 1, 5
_JUMPS = (5, 6)  # classes, by the lowest three bits of an opcode


def lookups_in_any_map(program: ProgramSpec) -> list[int]:
    """Where a program calls bpf_map_lookup_elem() with a map that the instructions before it do not tell."""
    insns = list(INSN.iter_unpack(program.insns))
    maps = {reference.insn for reference in program.maps}
    targets = {at + 1 + offset for at, (opcode, _, offset, _) in enumerate(insns) if opcode & 7 in _JUMPS and offset}
    return [
        at
        for at, (opcode, registers, _, number) in enumerate(insns)
        if opcode == _CALL and not registers >> 4 and number == _LOOKUP and not _is_known(insns, at, maps, targets)
    ]


def _is_known(insns: Sequence[tuple[int, int, int, int]], call: int, maps: set[int], targets: set[int]) -> bool:
    register = _MAP_ARGUMENT
    for at in range(call - 1, -1, -1):
        opcode, registers, _, _ = insns[at]
        if at in maps and registers & 15 == register:
            return True
        if at + 1 in targets or (opcode == _CALL and register <= _LAST_ARGUMENT):
            return False
        if opcode == _MOV64 and registers & 15 == register:
            register = registers >> 4
    return False
