"""`Program` → `CUnit`: a C translation unit to read and to compile, each line with the place that it stems from."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

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
from .templates import CText, Remark, environment, loaded

SHARED_HEADERS = Path(__file__).parent / "bpf"
UNIT_TEMPLATE = "program.c.j2"
INJECTOR_TEMPLATE = "inject.c.j2"

_MARK = re.compile(r"( \*/)?\x00(\d+)\x00")
_COMMENT = re.compile(r"[ \t]*/\*.*?\*/", re.DOTALL)


class CUnit(Struct, frozen=True, dict=True):
    """C for one program: the words that `template` makes it from, written out when somebody asks for it.

    `places` are what lines of it can stem from, each with its place in the file. `headers` are the folders to include
    from, the service's last.
    """

    program: Program | Injector
    template: str
    words: Mapping[str, object]
    places: tuple[tuple[object, Span], ...]
    headers: tuple[Path, ...]

    @property
    def name(self) -> str:
        """File name of the unit."""
        return f"{self.program.name}.c"

    @property
    def text(self) -> str:
        """All of it, for people to read."""
        return self._written[0]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The lines that stem from somewhere, in order."""
        return self._written[1]

    @property
    def code(self) -> str:
        """The text without comments, line for line. It is what is compiled: moving a line of YAML changes no object."""
        return _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), self.text)

    def lines(self, marks: Iterable[Mark]) -> tuple[tuple[int, Span], ...]:
        """(line of C, place in the file) of its own marks, or of those of a unit from words of the same essence."""
        return ((1, self.program.span), *((line, self.places[place][1]) for line, place in marks))

    @functools.cached_property
    def _written(self) -> tuple[str, tuple[Mark, ...]]:
        places: list[int] = []

        def at(owner: object) -> CText:
            places.append(next(number for number, (each, _) in enumerate(self.places) if each is owner))
            return CText(f"\x00{len(places) - 1}\x00")

        template = environment(SHARED_HEADERS).get_template(self.template)
        marked = template.render(self.words, at=at, ifindex_of=_ifindex_of)
        return _place(marked, places, [span for _, span in self.places])


Mark = tuple[int, int]
"""A line of C, and the number in `CUnit.places` of what it stems from."""


class _Field(Struct, frozen=True):
    """One designated initialiser of the configuration."""

    name: str
    literal: str
    meaning: Remark
    span: Span


class _Symbol(Struct, frozen=True):
    """A number that the loader fills in."""

    name: str
    meaning: Remark


def emit(ir: ChainIR, program: Program, version: str) -> CUnit:
    """The C of one program of `ir`."""
    words = _origin(ir, version) | _words(ir, program)
    slow_path = words["slow_path"]
    places = (
        *((each, each.span) for kind in ("maps", "functions", "fields", "edges") for each in words[kind]),
        *([(slow_path, ir.slow_path.span)] if slow_path else []),
    )
    return CUnit(program, UNIT_TEMPLATE, words, places, (SHARED_HEADERS, program.instance.service.headers))


def emit_injector(ir: ChainIR, injector: Injector, version: str) -> CUnit:
    """The C of the program by which control planes' frames enter the chain."""
    ports = _declared(next(definition for definition in ir.maps if definition.name == injector.map))
    own = {"name": injector.name, "hook": injector.hook, "ports": ports, "context": _context(injector.hook)}
    return CUnit(injector, INJECTOR_TEMPLATE, _origin(ir, version) | own, ((ports, ports.span),), (SHARED_HEADERS,))


def units(ir: ChainIR, version: str) -> list[CUnit]:
    """The C of every program of a chain."""
    services = [emit(ir, program, version) for program in ir.programs]
    return services + [emit_injector(ir, injector, version) for injector in ir.injectors]


def _context(hook: Hook) -> str:
    return "xdp_md" if hook is Hook.XDP else "__sk_buff"


def _origin(ir: ChainIR, version: str) -> dict[str, Any]:
    """What a unit says at its top of where it comes from."""
    return {"version": Remark(version), "chain": Remark(ir.name), "digest": Remark(ir.sha256[:16])}


def _words(ir: ChainIR, program: Program) -> dict[str, Any]:
    """All that the template knows of a program: what is not among it makes no difference to the C."""
    edges = {edge.port: edge for edge in program.edges}
    port = program.instance.port(program.port)
    service = program.instance.service
    return {
        "name": program.name,
        "service": Remark(program.service),
        "port": Remark(program.port),
        "port_index": program.port_index,
        "where": Remark(program.span.brief),
        "hook": program.hook,
        "egress": program.egress,
        "header": service.header.name,
        "kind": c_name(program.instance.kind),
        "config": port_name(port),
        "context": _context(program.hook),
        "transmits": program.lowered.transmits,
        "floods": service.floods,
        "receivers": bool(program.flood),
        "xdp": program.hook is Hook.XDP,
        "constant_verdicts": service.constant_verdicts,
        "layout": CounterLayout(len(program.instance.ports)),
        "maps": [_declared(definition) for definition in ir.maps if definition.name in program.maps],
        "symbols": list(_symbols(program)),
        "functions": program.lowered.functions,
        "fields": list(_fields(program)),
        "counters": counters_map(program.service),
        "prog_array": prog_array(program.hook),
        "devmap": devmap(program.service),
        "flood_map": flood_map(port) if flood_map(port) in program.maps else None,
        "edges": program.edges,
        "calls": _leading_to(program, ToProgram),
        "injection": host_symbol(HostFact.RECEIVER, program.injection) if program.injection else None,
        "hosts": _leading_to(program, ToHost),
        "interfaces": _leading_to(program, ToInterface),
        "clones": [copy for copy in program.flood if copy.device is not None],
        "original": next((edges[copy.port] for copy in program.flood if copy.device is None), None),
        "has_slow_path": bool(service.slow_path_reasons),
        "slow_path": _slow_path(ir, program),
    }


def _declared(definition: MapDef) -> MapDef:
    """A map without what is in it, which is not in the C either."""
    return replace(definition, entries=())


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
        "rate_meant": Remark(str(ir.slow_path.rate)),
        "burst_meant": Remark(str(ir.slow_path.burst)),
    }


def _ifindex_of(device: str) -> CText:
    return loaded(host_symbol(HostFact.IFINDEX, device))


def _leading_to(program: Program, target: type[ToProgram | ToHost | ToInterface]) -> list[Edge]:
    return [edge for edge in program.edges if isinstance(edge.target, target)]


def _symbols(program: Program) -> Iterator[_Symbol]:
    for fact, device in dict.fromkeys(program_facts(program)):
        meaning = f"{fact} of {device}" if device else str(fact)
        yield _Symbol(host_symbol(fact, device), Remark(meaning))
    for constant in program.lowered.constants:
        if isinstance(constant.home, LoadTime):
            yield _Symbol(value_symbol(constant.path), Remark(constant.value))


def _fields(program: Program) -> Iterator[_Field]:
    """The configuration's initialisers: constants, what the loader fills in, pointers to maps and to functions."""
    for constant in program.lowered.constants:
        meaning = Remark(f"{constant.meaning}: {constant.value}")
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
        yield _Field(function.field, function.name, Remark("generated above"), function.span)


def _map_meaning(definition: MapDef) -> Remark:
    return Remark(f"a map of {definition.max_entries}, {definition.role}")


def _place(marked: str, places: Sequence[int], spans: Sequence[Span]) -> tuple[str, tuple[Mark, ...]]:
    """Marked text → the text with provenance in its comments, and the place of every marked line."""
    marks: list[Mark] = []
    placed: list[str] = []

    def provenance(mark: re.Match[str]) -> str:
        span = spans[places[int(mark[2])]]
        return f", {span.brief} */" if mark[1] else f" /* {span.brief} */"

    for number, line in enumerate(marked.split("\n"), start=1):
        marks += [(number, places[int(mark[2])]) for mark in _MARK.finditer(line)]
        placed.append(_MARK.sub(provenance, line).rstrip())
    return "\n".join(placed), tuple(marks)
