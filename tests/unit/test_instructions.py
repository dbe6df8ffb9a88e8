"""Instructions by hand: what is no program is refused, and calls are linked."""

from __future__ import annotations

import struct

import pytest

from runtime.elf import STT_FUNC, Malformed, Relocation, RelocationType, Symbol
from runtime.instructions import (
    INSN,
    CodeTarget,
    DataTarget,
    Function,
    MapTarget,
    References,
    Target,
    ValueTarget,
    check,
    link,
    references,
    with_value,
)
from runtime.spec import DataReference, FunctionPlace, MapReference, ValueReference
from runtime.uapi import PseudoSource

EXIT = (0x95, 0, 0, 0)
MOV = (0xB7, 0, 0, 1)
WIDE = ((0x18, 1, 0, 0), (0, 0, 0, 0))


def function(*insns: tuple[int, int, int, int], name: str = "f", section: int = 2, start: int = 0) -> Function:
    return Function(name, section, "xdp", start, b"".join(struct.pack("<BBhi", *insn) for insn in insns))


@pytest.mark.parametrize(
    ("insns", "at", "message"),
    [
        ([(0xFF, 0, 0, 0), EXIT], 0, "unknown instruction 0xff"),
        ([MOV, (0xB7, 0x0B, 0, 0), EXIT], 8, "there is no register 11"),
        ([(0xBF, 0xF0, 0, 0), EXIT], 0, "there is no register 15"),
        ([(0x05, 0, 5, 0), EXIT], 0, "jumps to instruction 6 of 2"),
        ([(0x15, 0, -2, 0), EXIT], 0, "jumps to instruction -1 of 2"),
        ([(0x06, 0, 0, 1 << 30), EXIT], 0, f"jumps to instruction {(1 << 30) + 1} of 2"),
        ([(0x05, 0, 1, 0), *WIDE, EXIT], 0, "jumps to instruction 2 of 4"),
        ([EXIT, WIDE[0]], 8, "a 64-bit load without its second half"),
        ([WIDE[0], EXIT], 0, "a 64-bit load without its second half"),
        ([EXIT, *WIDE], 16, "runs over its end"),
        ([EXIT, MOV], 8, "runs over its end"),
    ],
)
def test_what_is_no_program_is_refused(insns: list[tuple[int, int, int, int]], at: int, message: str) -> None:
    with pytest.raises(Malformed) as malformed:
        check(function(*insns, start=0x40))
    assert (malformed.value.code, malformed.value.message) == ("L105", f"`f`: {message}")
    assert (malformed.value.section, malformed.value.offset) == ("xdp", 0x40 + at)


def test_jumps_calls_and_wide_loads_pass() -> None:
    check(function((0x15, 1, 2, 0), *WIDE, (0x85, 0, 0, 1), (0x05, 0, -5, 0)))


def to(kind: int, offset: int, name: str = "there") -> Relocation:
    return Relocation(offset, kind, Symbol(name, 0, 8, STT_FUNC, 1, 3))


@pytest.mark.parametrize(
    ("insns", "relocations", "target", "message"),
    [
        ([MOV, EXIT], {0: to(1, 0)}, MapTarget("m"), "a relocation to `there` on no reference"),
        ([*WIDE, EXIT], {8: to(1, 8)}, MapTarget("m"), "a relocation to `there` on no reference"),
        ([*WIDE, EXIT], {0: to(10, 0)}, MapTarget("m"), "relocation type 10 on a 64-bit load"),
        ([(0x85, 0x10, 0, -1), EXIT], {0: to(1, 0)}, CodeTarget(2, 0), "relocation type 1 on a call"),
        ([(0x85, 0x10, 0, -1), EXIT], {0: to(10, 0)}, MapTarget("m"), "calls `there`, which is no function"),
        ([(0x85, 0, 0, 5), EXIT], {0: to(10, 0)}, CodeTarget(2, 0), "calls `there`, which is no function"),
        (
            [(0x85, 0x20, 0, 5), EXIT],
            {},
            MapTarget("m"),
            "calls a kernel function by its BTF id, which is not supported",
        ),
        ([(0x18, 0x11, 0, 3), WIDE[1], EXIT], {}, MapTarget("m"), "a reference without a relocation"),
    ],
)
def test_a_reference_that_means_nothing_is_refused(
    insns: list[tuple[int, int, int, int]], relocations: dict[int, Relocation], target: Target, message: str
) -> None:
    with pytest.raises(Malformed) as malformed:
        references(function(*insns), relocations, lambda relocation, addend: target)
    assert (malformed.value.code, malformed.value.message) == ("L104", f"`f`: {message}")


def test_a_value_has_its_place_whatever_stood_there() -> None:
    """In a function behind the entry, too; and what a corrupt object has in its place never reaches the kernel."""
    entry = function((0x85, 0x10, 0, -1), EXIT, name="entry")
    leaf = function((0x18, 0x11, 0, 0), (0, 0, 0, 9), EXIT, name="leaf", section=3)
    found = {"entry": {0: to(RelocationType.R_BPF_64_32, 0)}, "leaf": {0: to(RelocationType.R_BPF_64_64, 0)}}
    targets: dict[str, Target] = {"entry": CodeTarget(3, 0), "leaf": ValueTarget("limit")}
    linked = link(
        entry,
        {each.id: each for each in (entry, leaf)},
        lambda each: references(each, found[each.name], lambda relocation, addend: targets[each.name]),
    )
    assert linked.values == (ValueReference(2, "limit"),)
    assert list(INSN.iter_unpack(linked.insns))[2:4] == [(0x18, 1, 0, 0), (0, 0, 0, 0)]
    insns = bytearray(linked.insns)
    with_value(insns, 2, 0xFFFFFFFE80000001)
    assert list(INSN.iter_unpack(insns))[2:4] == [(0x18, 1, 0, -0x7FFFFFFF), (0, 0, 0, -2)]


def test_functions_are_appended_once_and_calls_made_relative() -> None:
    entry = function((0x85, 0x10, 0, -1), (0x85, 0x10, 0, -1), *WIDE, EXIT, name="entry")
    leaf = function(*WIDE, EXIT, name="leaf", section=3, start=16)
    back = function((0x85, 0x10, 0, 0), EXIT, name="back", section=3, start=40)
    functions = {each.id: each for each in (entry, leaf, back)}
    targets: dict[tuple[str, int], Target] = {
        ("entry", 0): CodeTarget(3, 40),
        ("entry", 8): CodeTarget(3, 16),
        ("entry", 16): CodeTarget(3, 16),
        ("leaf", 16): DataTarget(".bss", 12),
        ("back", 40): CodeTarget(3, 16),
    }

    def found(each: Function) -> References:
        places = {offset: target for (name, offset), target in targets.items() if name == each.name}
        kinds = {offset: each.code[offset - each.start] for offset in places}
        relocations = {
            offset: to(RelocationType.R_BPF_64_32 if kinds[offset] == 0x85 else RelocationType.R_BPF_64_64, offset)
            for offset in places
        }
        return references(each, relocations, lambda relocation, addend: places[relocation.offset])

    linked = link(entry, functions, found)
    assert linked.functions == (FunctionPlace("entry", 0), FunctionPlace("back", 5), FunctionPlace("leaf", 7))
    assert linked.data == (DataReference(7, ".bss"),)
    insns = list(INSN.iter_unpack(linked.insns))
    assert [(index, registers >> 4, imm) for index, (op, registers, _, imm) in enumerate(insns) if op == 0x85] == [
        (0, PseudoSource.BPF_PSEUDO_CALL, 5 - 0 - 1),
        (1, PseudoSource.BPF_PSEUDO_CALL, 7 - 1 - 1),
        (5, PseudoSource.BPF_PSEUDO_CALL, 7 - 5 - 1),
    ]
    assert insns[2] == (0x18, 1 | PseudoSource.BPF_PSEUDO_FUNC << 4, 0, 7 - 2 - 1)
    assert insns[7] == (0x18, 1 | PseudoSource.BPF_PSEUDO_MAP_VALUE << 4, 0, 0)
    assert insns[8] == (0, 0, 0, 12)


def test_a_map_reference_moves_with_its_function() -> None:
    entry = function((0x85, 0x10, 0, 1), EXIT, name="entry")
    user = function(*WIDE, EXIT, name="user", start=16)

    def found(each: Function) -> References:
        relocations = {16: to(RelocationType.R_BPF_64_64, 16)} if each is user else {}
        return references(each, relocations, lambda relocation, addend: MapTarget("fdb"))

    linked = link(entry, {entry.id: entry, user.id: user}, found)
    assert linked.maps == (MapReference(2, "fdb"),)


def test_a_call_into_the_middle_of_a_function_is_refused() -> None:
    entry = function((0x85, 0x10, 0, 2), EXIT, name="entry")
    with pytest.raises(Malformed, match="no function begins at offset 0x18"):
        link(entry, {entry.id: entry}, lambda each: references(each, {}, lambda relocation, addend: MapTarget("")))


def test_a_program_that_is_too_long_is_refused() -> None:
    entry = function((0x85, 0x10, 0, 1), EXIT, name="entry")
    long = Function("long", 2, "xdp", 16, struct.pack("<BBhi", *EXIT) * 1_000_000)
    functions = {entry.id: entry, long.id: long}
    with pytest.raises(Malformed, match="with what it calls it has 1000002 instructions"):
        link(
            entry,
            functions,
            lambda each: references(
                each if each is entry else function(EXIT), {}, lambda relocation, addend: MapTarget("")
            ),
        )
