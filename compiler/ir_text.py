"""`ChainIR` → text that people read and tests compare: stable, a line a fact, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator

from .ir import (
    ChainIR,
    Constant,
    FloodCopy,
    HostBound,
    Inlined,
    InMap,
    LoadTime,
    MapDef,
    Program,
    Target,
    ToProgram,
)

SHOWN_ENTRIES = 8  # of a map; the rest is counted


def text(ir: ChainIR) -> str:
    """The whole chain: interfaces, ports, programs, maps, slots."""
    return "\n".join(_lines(ir)) + "\n"


def _lines(ir: ChainIR) -> Iterator[str]:
    yield f"chain {ir.name}"
    for interface in ir.interfaces:
        where = f" in {interface.netns}" if interface.netns else ""
        yield f"interface {interface.name} = {interface.device}{where} {interface.mode}  ; {interface.span.brief}"
    for share in ir.shared:
        what = f"VLAN {share.vlan}" if share.vlan else "what has no VLAN"
        yield f"interface {share.name} = {what} of {share.device}  ; {share.span.brief}"
    for port in ir.ports:
        yield f"port {port.service}.{port.name} #{port.index} <-> {port.peer}  ; {port.span.brief}"
    for program in ir.programs:
        yield from _program(program)
    for injector in ir.injectors:
        yield f"program {injector.name} (injection, {injector.hook}), goes to slots of {injector.map}"
    for definition in ir.maps:
        yield from _map(definition)
    for tail in ir.tail_slots:
        yield f"slot {tail.map}[{tail.index}] = {tail.program}  ; {tail.span.brief}"
    for device in ir.device_slots:
        egress = f" by {device.program}" if device.program else ""
        yield f"slot {device.map}[{device.index}] = {device.device}{egress}"
    for link in ir.internal_links:
        yield f"internal link {link.name} -> {link.program}, beside {link.interface}"
    for symbol in ir.host_symbols:
        yield f"host {symbol.symbol} = {symbol.fact} {symbol.device or ''}".rstrip()
    for attach in ir.attach:
        yield f"attach {attach.interface} -> {attach.program}"


def _program(program: Program) -> Iterator[str]:
    egress = ", egress" if program.egress else ""
    yield f"program {program.name} ({program.instance.kind}, {program.hook}{egress})  ; {program.span.brief}"
    for constant in program.lowered.constants:
        yield f"  {_constant(constant)}  ; {constant.span.brief}"
    for function in program.lowered.functions:
        yield f"  function {function.name}  ; {function.span.brief}"
    for edge in program.edges:
        yield f"  out {edge.port} #{edge.index} -> {_target(edge.target)}  ; {edge.span.brief}"
    if program.flood:
        yield f"  flood -> {', '.join(_copy(copy) for copy in program.flood)}"
    yield f"  maps {' '.join(program.maps)}"


def _constant(constant: Constant) -> str:
    match constant.home:
        case Inlined(field, literal) if field:
            return f"inlined {constant.path} = {constant.value} (.{field} = {literal})"
        case Inlined():
            return f"inlined {constant.path} = {constant.value} (in code)"
        case LoadTime(field, value) if field:
            return f"inlined {constant.path} = {constant.value} (.{field} = {value}, when loaded)"
        case LoadTime():
            return f"inlined {constant.path} = {constant.value} (in code, when loaded)"
        case HostBound(field, fact, device):
            return f"host {constant.path} (.{field} = {fact} {device or ''})".replace(" )", ")")
        case InMap(map, key, value):
            return f"entry {constant.path} = {constant.value} ({map}[{key.hex()}] = {value.hex() or '-'})"


def _copy(copy: FloodCopy) -> str:
    return f"{copy.port} by {copy.device}" if copy.device else f"{copy.port} by its edge"


def _target(target: Target) -> str:
    return f"{target.program} (slot {target.slot})" if isinstance(target, ToProgram) else str(target)


def _map(definition: MapDef) -> Iterator[str]:
    yield (
        f"map {definition.name} {definition.type} key {definition.key_size} value {definition.value_size} "
        f"x {definition.max_entries} {definition.scope} {definition.role} "
        f"[{definition.layout}]{f' filled {definition.filled}' if definition.filled else ''}  ; {definition.span.brief}"
    )
    for entry in definition.entries[:SHOWN_ENTRIES]:
        yield f"  {_constant(entry)}  ; {entry.span.brief}"
    if len(definition.entries) > SHOWN_ENTRIES:
        yield f"  ... {len(definition.entries) - SHOWN_ENTRIES} more"
