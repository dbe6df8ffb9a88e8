"""Invariants of the IR, checked after every pass: what breaks one is a defect of bpfchain, not of a chain file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .ir import ChainIR, InMap, LoadTime, Program, ToProgram

VALUE_BITS = 64  # of what the loader writes into an instruction
MAX_TAIL_CALLS = 33  # MAX_TAIL_CALL_CNT, include/linux/bpf.h


class InvariantBroken(Exception):
    """The IR contradicts itself: `broken` says where, one sentence each."""

    def __init__(self, stage: str, broken: tuple[str, ...]) -> None:
        super().__init__(f"after {stage}: " + "; ".join(broken))
        self.broken = broken


def verify(ir: ChainIR, stage: str) -> ChainIR:
    """`ir` itself, if every invariant holds; raises InvariantBroken."""
    broken = tuple(_broken(ir))
    if broken:
        raise InvariantBroken(stage, broken)
    return ir


def _broken(ir: ChainIR) -> Iterator[str]:
    yield from _repeated("program", _program_names(ir))
    yield from _repeated("map", (definition.name for definition in ir.maps))
    yield from _repeated("tail slot", (f"{slot.map}[{slot.index}]" for slot in ir.tail_slots))
    yield from _repeated("device slot", (f"{slot.map}[{slot.index}]" for slot in ir.device_slots))
    for program in ir.programs:
        yield from _broken_program(ir, program)
    yield from _broken_maps(ir)
    yield from _broken_links(ir)


def _program_names(ir: ChainIR) -> list[str]:
    return [program.name for program in ir.programs] + [injector.name for injector in ir.injectors]


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} `{name}` is there {times} times"


def _broken_program(ir: ChainIR, program: Program) -> Iterator[str]:
    maps = {definition.name: definition for definition in ir.maps}
    for name in program.maps:
        if name not in maps:
            yield f"program `{program.name}` uses unknown map `{name}`"
    for definition in program.lowered.maps:
        if maps.get(definition.name, definition) != definition:
            yield f"map `{definition.name}` means something else in program `{program.name}`"
    homes = [constant.home for constant in program.lowered.constants if not isinstance(constant.home, InMap)]
    fields = [home.field for home in homes if home.field]
    fields += [function.field for function in program.lowered.functions]
    fields += [definition.field for definition in program.lowered.maps if definition.field]
    yield from _repeated(f"field of `{program.name}`", fields)
    yield from _broken_values(program)
    slots = {(slot.program, slot.index) for slot in ir.tail_slots}
    hooks = {other.name: other.hook for other in ir.programs}
    for edge in program.edges:
        if isinstance(edge.target, ToProgram):
            if (edge.target.program, edge.target.slot) not in slots:
                yield f"`{program.name}` leaves by `{edge.port}` into slot {edge.target.slot}, which nothing fills"
            if hooks.get(edge.target.program) is not program.hook:
                yield f"`{program.name}` leaves by `{edge.port}` into a program of another hook"


def _broken_values(program: Program) -> Iterator[str]:
    paths = [(c.path, c.home.value) for c in program.lowered.constants if isinstance(c.home, LoadTime)]
    yield from _repeated(f"value of `{program.name}`", (path for path, _ in paths))
    for path, value in paths:
        if not 0 <= value < 1 << VALUE_BITS:
            yield f"the value of `{path}` in `{program.name}` does not fit {VALUE_BITS} bits: {value}"


def _broken_maps(ir: ChainIR) -> Iterator[str]:
    for definition in ir.maps:
        if definition.max_entries < max(1, len(definition.entries)):
            yield f"map `{definition.name}` has room for {definition.max_entries} of {len(definition.entries)} entries"
        for entry in definition.entries:
            if not isinstance(entry.home, InMap) or entry.home.map != definition.name:
                yield f"`{entry.path}` is no entry of map `{definition.name}`"
            elif len(entry.home.key) != definition.key_size or len(entry.home.value) not in (0, definition.value_size):
                yield f"entry `{entry.path}` has not the size of map `{definition.name}`"


def _broken_links(ir: ChainIR) -> Iterator[str]:
    programs = set(_program_names(ir))
    devices = {interface.name for interface in (*ir.interfaces, *ir.shared)} | {link.name for link in ir.internal_links}
    for name in (
        *(slot.program for slot in ir.tail_slots),
        *(link.program for link in ir.internal_links),
        *(attach.program for attach in ir.attach),
    ):
        if name not in programs:
            yield f"unknown program `{name}`"
    egress = {program.name for program in ir.programs if program.egress}
    for slot in ir.device_slots:
        if slot.device not in devices:
            yield f"unknown device `{slot.device}` in `{slot.map}[{slot.index}]`"
        if slot.program is not None and slot.program not in egress:
            yield f"`{slot.program}` in `{slot.map}[{slot.index}]` is no egress program"
