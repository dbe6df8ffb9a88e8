"""Corrupt objects: whatever the bytes, the reader gives a spec that holds together or says `LoadFailed`."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from runtime import sys
from runtime.instructions import INSN
from runtime.object import read_object
from runtime.spec import ObjectSpec
from runtime.uapi import Cmd
from schemas.diagnostic import Diagnostic, LoadFailed
from tests.clang.c import EVERYTHING, compile_c

MUTATIONS = 5000
BATCHES = 10


def mutated(content: bytes, seed: int) -> bytes:
    """A few flipped bits, odd bytes, odd words and misplaced pieces; one in ten is cut off as well."""
    choose = random.Random(seed)
    result = bytearray(content)
    for _ in range(choose.choice((1, 1, 1, 2, 4, 16))):
        at = choose.randrange(len(result) - 8)
        match choose.randrange(4):
            case 0:
                result[at] ^= 1 << choose.randrange(8)
            case 1:
                result[at] = choose.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                size = choose.choice((2, 4, 8))
                odd = choose.choice((0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1))
                result[at : at + size] = odd.to_bytes(size, "little")
            case _:
                other = choose.randrange(len(result) - 8)
                result[at : at + 8] = result[other : other + 8]
    if choose.random() < 0.1:
        del result[choose.randrange(len(result)) :]
    return bytes(result)


def broken(spec: ObjectSpec) -> Iterator[str]:
    """What does not hold together in a spec."""
    maps = {wanted.name for wanted in spec.maps}
    sizes = {section.name: len(section.content) for section in spec.data}
    for program in spec.programs:
        insns = list(INSN.iter_unpack(program.insns))
        if len(program.insns) % 8 or not insns:
            yield f"{program.name}: {len(program.insns)} bytes of instructions"
        for map_reference in program.maps:
            if map_reference.map not in maps or insns[map_reference.insn][0] != 0x18:
                yield f"{program.name}: {map_reference}"
        for reference in program.sections:
            if insns[reference.insn][0] != 0x18 or not 0 <= insns[reference.insn + 1][3] < sizes[reference.section]:
                yield f"{program.name}: {reference}"
        for value in program.values:
            if insns[value.insn][:1] + insns[value.insn + 1][:1] != (0x18, 0) or not value.symbol:
                yield f"{program.name}: {value}"
    for section in spec.data:
        for symbol in section.symbols:
            if symbol.offset + symbol.size > len(section.content):
                yield f"{section.name}: {symbol}"


def no_kernel(cmd: Cmd, attr: object) -> int:
    raise AssertionError(f"{cmd} while an object is read")


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_corrupt_object_reads_or_is_refused(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No digest is looked at here: whatever it says, the reader has to stand, and what it refuses is never loaded."""
    monkeypatch.setattr(sys, "syscall", no_kernel)
    content = compile_c(EVERYTHING)
    outcomes = {"read": 0, "refused": 0}
    unplaced: list[Diagnostic] = []
    for seed in range(batch, MUTATIONS, BATCHES):
        try:
            spec = read_object(mutated(content, seed))
        except LoadFailed as failed:
            outcomes["refused"] += 1
            unplaced += [d for d in failed.diagnostics if not (d.code.startswith("L10") and d.notes)]
        else:
            outcomes["read"] += 1
            assert not list(broken(spec)), f"seed {seed}"
    assert not unplaced
    # Most bytes of an object are names and debug records: were all refused, or none, this would test nothing.
    assert min(outcomes.values()) > MUTATIONS // BATCHES // 10
