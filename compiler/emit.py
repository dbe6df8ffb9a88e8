"""`Program` → `CUnit`: a C translation unit to read and to compile, each line with the place that it stems from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from schemas.counters import CounterLayout
from schemas.diagnostic import Span
from schemas.manifest import Hook, HostFact

from .ir import ChainIR, Edge, HostBound, Injector, Inlined, LoadTime, MapDef, Program, ToHost, ToInterface, ToProgram
from .lower import (
    c_name,
    counters_map,
    devmap,
    flood_map,
    host_symbol,
    port_name,
    prog_array,
    program_facts,
    reached_services,
    value_symbol,
)
from .slow_path import RING, RING_BYTES, SCRATCH, SLOW_PATH_BURST, SLOW_PATH_RATE, buckets_map, upcalls_map
from .templates import CText, environment, loaded

SHARED_HEADERS = Path(__file__).parent / "bpf"
UNIT_TEMPLATE = "program.c.j2"
INJECTOR_TEMPLATE = "inject.c.j2"

_MARK = re.compile(r"( \*/)?\x00(\d+)\x00")
_COMMENT = re.compile(r"[ \t]*/\*.*?\*/", re.DOTALL)


class CUnit(Struct, frozen=True):
    """C for one program; `lines` are (line of C, place in the file), `headers` the folders to include from."""

    program: Program | Injector
    text: str
    lines: tuple[tuple[int, Span], ...]
    headers: tuple[Path, ...]

    @property
    def name(self) -> str:
        """File name of the unit."""
        return f"{self.program.name}.c"

    @property
    def code(self) -> str:
        """The text without comments, line for line. It is what is compiled: moving a line of YAML changes no object."""
        return _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), self.text)


class _Field(Struct, frozen=True):
    """One designated initialiser of the configuration."""

    name: str
    literal: str
    meaning: str
    span: Span


class _Symbol(Struct, frozen=True):
    """A number that the loader fills in."""

    name: str
    meaning: str


def emit(ir: ChainIR, program: Program, version: str) -> CUnit:
    """The C of one program of `ir`."""
    marks: list[Span] = []

    def at(span: Span) -> CText:
        marks.append(span)
        return CText(f"\x00{len(marks) - 1}\x00")

    template = environment(SHARED_HEADERS).get_template(UNIT_TEMPLATE)
    names = _names(ir, program)
    marked = template.render(version=version, ir=ir, program=program, at=at, ifindex_of=_ifindex_of, **names)
    text, lines = _place(marked, marks)
    service = program.instance.service
    return CUnit(program, text, ((1, program.span), *lines), (SHARED_HEADERS, service.headers))


def emit_injector(ir: ChainIR, injector: Injector, version: str) -> CUnit:
    """The C of the program by which control planes' frames enter the chain."""
    marks: list[Span] = []

    def at(span: Span) -> CText:
        marks.append(span)
        return CText(f"\x00{len(marks) - 1}\x00")

    template = environment(SHARED_HEADERS).get_template(INJECTOR_TEMPLATE)
    ports = next(definition for definition in ir.maps if definition.name == injector.map)
    marked = template.render(
        version=version, ir=ir, program=injector, at=at, ports=ports, context=_context(injector.hook)
    )
    text, lines = _place(marked, marks)
    return CUnit(injector, text, ((1, injector.span), *lines), (SHARED_HEADERS,))


def units(ir: ChainIR, version: str) -> list[CUnit]:
    """The C of every program of a chain."""
    services = [emit(ir, program, version) for program in ir.programs]
    return services + [emit_injector(ir, injector, version) for injector in ir.injectors]


def _context(hook: Hook) -> str:
    return "xdp_md" if hook is Hook.XDP else "__sk_buff"


def _names(ir: ChainIR, program: Program) -> dict[str, object]:
    """What the template refers to, beside the program itself."""
    edges = {edge.port: edge for edge in program.edges}
    port = program.instance.port(program.port)
    original = next((edges[copy.port] for copy in program.flood if copy.device is None), None)
    return {
        "header": program.instance.service.header.name,
        "kind": c_name(program.instance.kind),
        "config": port_name(port),
        "context": _context(program.hook),
        "transmits": program.lowered.transmits,
        "xdp": program.hook is Hook.XDP,
        "constant_verdicts": program.instance.service.constant_verdicts,
        "layout": CounterLayout(len(program.instance.ports)),
        "maps": [definition for definition in ir.maps if definition.name in program.maps],
        "symbols": list(_symbols(program)),
        "fields": list(_fields(program)),
        "counters": counters_map(program.service),
        "prog_array": prog_array(program.hook),
        "devmap": devmap(program.service),
        "flood_map": flood_map(port) if flood_map(port) in program.maps else None,
        "calls": _leading_to(program, ToProgram),
        "injection": host_symbol(HostFact.RECEIVER, program.injection) if program.injection else None,
        "hosts": _leading_to(program, ToHost),
        "interfaces": _leading_to(program, ToInterface),
        "clones": [copy for copy in program.flood if copy.device is not None],
        "original": original,
        "slow_path": _slow_path(ir, program),
    }


def _slow_path(ir: ChainIR, program: Program) -> dict[str, object] | None:
    """What the program's way up to the control plane refers to; None where its service has none."""
    reasons = program.instance.slow_path_reasons
    if not reasons:
        return None
    return {
        "config": f"{port_name(program.instance.port(program.port))}__slow_path",
        "ring": RING,
        "ring_bytes": RING_BYTES,
        "scratch": SCRATCH,
        "buckets": buckets_map(program.service),
        "counters": upcalls_map(program.service),
        "hz": host_symbol(HostFact.HZ, None),
        "rate": value_symbol(SLOW_PATH_RATE),
        "burst": value_symbol(SLOW_PATH_BURST),
        "service": reached_services(ir).index(program.instance),
        "reasons": max(number for number, _ in reasons) + 1,
    }


def _ifindex_of(device: str) -> CText:
    return loaded(host_symbol(HostFact.IFINDEX, device))


def _leading_to(program: Program, target: type[ToProgram | ToHost | ToInterface]) -> list[Edge]:
    return [edge for edge in program.edges if isinstance(edge.target, target)]


def _symbols(program: Program) -> Iterator[_Symbol]:
    for fact, device in dict.fromkeys(program_facts(program)):
        meaning = f"{fact} of {device}" if device else str(fact)
        yield _Symbol(host_symbol(fact, device), meaning)
    for constant in program.lowered.constants:
        if isinstance(constant.home, LoadTime):
            yield _Symbol(value_symbol(constant.path), constant.value)


def _fields(program: Program) -> Iterator[_Field]:
    """The configuration's initialisers: constants, what the loader fills in, pointers to maps and to functions."""
    for constant in program.lowered.constants:
        meaning = f"{constant.meaning}: {constant.value}"
        match constant.home:
            case Inlined(field, literal) if field:
                yield _Field(field, literal, meaning, constant.span)
            case LoadTime(field) if field:
                yield _Field(field, loaded(value_symbol(constant.path)), meaning, constant.span)
            case HostBound(field, fact, device) if field:
                yield _Field(field, loaded(host_symbol(fact, device)), meaning, constant.span)
            case _:
                pass
    for definition in program.lowered.maps:
        if definition.field:
            yield _Field(definition.field, f"&{definition.name}", _map_meaning(definition), definition.span)
    for function in program.lowered.functions:
        yield _Field(function.field, function.name, "generated above", function.span)


def _map_meaning(definition: MapDef) -> str:
    return f"a map of {definition.max_entries}, {definition.role}"


def _place(marked: str, marks: list[Span]) -> tuple[str, tuple[tuple[int, Span], ...]]:
    """Marked text → the text with provenance in its comments, and the span of every marked line."""
    lines: list[tuple[int, Span]] = []
    placed: list[str] = []
    for number, line in enumerate(marked.split("\n"), start=1):
        for mark in _MARK.finditer(line):
            lines.append((number, marks[int(mark[2])]))
        placed.append(_MARK.sub(lambda mark: _provenance(marks[int(mark[2])], joined=bool(mark[1])), line).rstrip())
    return "\n".join(placed), tuple(lines)


def _provenance(span: Span, *, joined: bool) -> str:
    return f", {span.brief} */" if joined else f" /* {span.brief} */"
