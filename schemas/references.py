"""A `Manifest` in, every way in which its records contradict each other out: names of nothing, numbers out of range.

The runtime relies on these: a manifest that passes never leads it to a missing record or to an impossible system call.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from .counters import COUNTER_SIZE, CounterLayout
from .manifest import HostFact, Manifest, MapRecord, Role, Scope
from .slow_path import SLOW_PATH_REASON_LIMIT

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
"""Names that the chain file gives: chain, interfaces, services, ports."""

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
"""Names that the compiler gives, which are C identifiers: programs, maps, symbols."""

OBJECT_FILE = re.compile(r"objects/([0-9a-f]{64})\.o")
DEVICE = re.compile(r"[^\s/:%.][^\s/:%]{0,14}|\.[^\s/:%.][^\s/:%]{0,13}")
NETNS = re.compile(r"[^/\0]{1,255}")
LINK_NAME = re.compile(r"[a-z][a-z0-9.-]{0,71}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAP_TYPE = re.compile(r"BPF_MAP_TYPE_[A-Z0-9_]+")
LAYOUT = re.compile(r"[0-9a-f]{1,64}")
COUNTERS = re.compile(f"({IDENTIFIER.pattern})?")
TARGET = re.compile(r"host|interface [a-z][a-z0-9-]*|program [A-Za-z_][A-Za-z0-9_]*")
NOT_EMPTY = re.compile(r".+", re.DOTALL)
SPAN = re.compile(r".{0,4096}", re.DOTALL)
_DEVICE_BYTES = 15  # IFNAMSIZ less the terminating zero
_U32_MAX = 0xFFFFFFFF
_U64_MAX = 0xFFFFFFFFFFFFFFFF
_FACTS_OF_A_DEVICE = frozenset({HostFact.IFINDEX, HostFact.MAC, HostFact.MTU, HostFact.RECEIVER})
_DEVMAPS = frozenset({"BPF_MAP_TYPE_DEVMAP", "BPF_MAP_TYPE_DEVMAP_HASH"})


def broken_references(manifest: Manifest) -> Iterator[str]:
    """One sentence for each contradiction."""
    yield from _names(manifest)
    yield from _forms(manifest)
    yield from _duplicates(manifest)
    yield from _dangling(manifest)
    for record in manifest.maps:
        yield from _map(record)
    yield from _slots(manifest)
    yield from _values(manifest)
    yield from _services(manifest)


def _names(manifest: Manifest) -> Iterator[str]:
    given = [manifest.chain, *(i.name for i in manifest.interfaces)]
    given += [name for service in manifest.services for name in (service.name, *service.ports)]
    made = [m.name for m in manifest.maps] + [s.symbol for s in manifest.host_symbols]
    made += [name for program in manifest.programs for name in (program.name, program.function)]
    made += [value.symbol for program in manifest.programs for value in program.values]
    for names, form in ((given, NAME), (made, IDENTIFIER)):
        yield from (f"`{name[:80]}` cannot be a name" for name in names if not form.fullmatch(name))
    yield from (f"`{i.name[:80]}` cannot be a name" for i in manifest.internal_links if not LINK_NAME.fullmatch(i.name))
    for interface in manifest.interfaces:
        if not DEVICE.fullmatch(interface.device) or len(interface.device.encode()) > _DEVICE_BYTES:
            yield f"interface `{interface.name}` has `{interface.device[:80]}`, which cannot be a device"
        netns = interface.netns
        if netns is not None and (netns in (".", "..") or not NETNS.fullmatch(netns)):
            yield f"interface `{interface.name}` has `{netns[:80]}`, which cannot be a network namespace"
    for record in manifest.objects:
        found = OBJECT_FILE.fullmatch(record.file)
        if not found or found[1] != record.sha256:
            yield f"object file `{record.file[:120]}` is not `objects/SHA256.o` of its own digest"


def _forms(manifest: Manifest) -> Iterator[str]:
    """What manifest.schema.json says of single values: what passes here passes there, and a test compares the two."""
    forms = [
        ("digest", SHA256, (manifest.source.sha256, *(record.sha256 for record in manifest.objects))),
        ("map type", MAP_TYPE, (record.type for record in manifest.maps)),
        ("layout", LAYOUT, (record.layout for record in manifest.maps)),
        ("counters map", COUNTERS, (service.counters for service in manifest.services)),
        ("map of upcalls", COUNTERS, (service.upcalls for service in manifest.services)),
        ("edge target", TARGET, (edge.target for edge in manifest.edges)),
        ("kind", NOT_EMPTY, (service.kind for service in manifest.services)),
        ("feature", NOT_EMPTY, manifest.features),
        ("drop reason", NOT_EMPTY, (name for service in manifest.services for _, name in service.drop_reasons)),
        ("slow path reason", NOT_EMPTY, (n for service in manifest.services for _, n in service.slow_path_reasons)),
        ("place", SPAN, _spans(manifest)),
    ]
    for what, form, values in forms:
        yield from (f"`{value[:80]}` cannot be a {what}" for value in values if not form.fullmatch(value))
    lines = (line.c_line for program in manifest.programs for line in program.lines)
    yield from (f"{number} cannot be a line" for number in lines if not 1 <= number <= _U32_MAX)


def _spans(manifest: Manifest) -> Iterator[str]:
    records = (manifest.interfaces, manifest.services, manifest.programs, manifest.maps, manifest.tail_slots)
    yield from (record.span for group in records for record in group)
    yield from (edge.span for edge in manifest.edges)
    for program in manifest.programs:
        yield from (record.span for group in (program.constants, program.lines) for record in group)
    yield from (entry.span for record in manifest.maps for entry in record.entries)


def _duplicates(manifest: Manifest) -> Iterator[str]:
    yield from _repeated("interface or internal link", _devices(manifest))
    yield from _repeated("service", (service.name for service in manifest.services))
    yield from _repeated("program", (program.name for program in manifest.programs))
    yield from _repeated("map", (record.name for record in manifest.maps))
    yield from _repeated("object", (record.file for record in manifest.objects))
    yield from _repeated("function", (f"{program.object} {program.function}" for program in manifest.programs))
    yield from _repeated("tail slot", (f"{slot.map}[{slot.index}]" for slot in manifest.tail_slots))
    yield from _repeated("device slot", (f"{slot.map}[{slot.index}]" for slot in manifest.device_slots))
    yield from _repeated("host symbol", (record.symbol for record in manifest.host_symbols))
    yield from _repeated("attach point", (record.interface for record in manifest.attach))
    whole = [interface for interface in manifest.interfaces if interface.vlan is None]
    yield from _repeated("device", (f"{i.device} in {i.netns}" if i.netns else i.device for i in whole))


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"{what} `{name}` is there {times} times" for name, times in Counter(names).items() if times > 1)


def _devices(manifest: Manifest) -> list[str]:
    return [i.name for i in manifest.interfaces] + [link.name for link in manifest.internal_links]


def _dangling(manifest: Manifest) -> Iterator[str]:
    """References to records that are not there."""
    services = {service.name: service.ports for service in manifest.services}
    interfaces = {interface.name for interface in manifest.interfaces}
    known = {
        "interface": interfaces,
        "device": set(_devices(manifest)),
        "service": set(services),
        "object": {record.file for record in manifest.objects},
        "program": {program.name for program in manifest.programs},
        "map": {record.name for record in manifest.maps},
    }
    wanted: list[tuple[str, str | None, str]] = [
        *(("object", p.object, f"program `{p.name}`") for p in manifest.programs),
        *(("service", p.service, f"program `{p.name}`") for p in manifest.programs),
        *(("service", m.service, f"map `{m.name}`") for m in manifest.maps),
        *(("map", s.map, "a tail slot") for s in manifest.tail_slots),
        *(("program", s.program, f"tail slot {s.index} of `{s.map}`") for s in manifest.tail_slots),
        *(("map", s.map, "a device slot") for s in manifest.device_slots),
        *(("device", s.device, f"device slot {s.index} of `{s.map}`") for s in manifest.device_slots),
        *(("program", s.program, f"device slot {s.index} of `{s.map}`") for s in manifest.device_slots),
        *(("device", s.device, f"host symbol `{s.symbol}`") for s in manifest.host_symbols),
        *(("interface", a.interface, "an attach point") for a in manifest.attach),
        *(("program", a.program, f"attach point `{a.interface}`") for a in manifest.attach),
        *(("program", i.program, f"internal link `{i.name}`") for i in manifest.internal_links),
        *(("interface", i.interface, f"internal link `{i.name}`") for i in manifest.internal_links),
        *(("map", s.counters, f"service `{s.name}`") for s in manifest.services if s.counters),
        *(("map", s.upcalls, f"service `{s.name}`") for s in manifest.services if s.upcalls),
        *(("service", e.service, "an edge") for e in manifest.edges),
    ]
    for kind, name, holder in wanted:
        if name is not None and name not in known[kind]:
            yield f"{holder} refers to {kind} `{name[:80]}`, which is not there"
    ports = [(p.service, p.port or "", f"program `{p.name}`") for p in manifest.programs if p.service is not None]
    ports += [(e.service, e.port, "an edge") for e in manifest.edges]
    for service, port, holder in ports:
        if port not in services.get(service, (port,)):
            yield f"{holder} refers to port `{service}.{port[:80]}`, which is not there"
    for program in manifest.programs:
        if (program.service is None) != (program.port is None):
            yield f"program `{program.name}` has {'a port' if program.port else 'a service'} without the other"
    for edge in manifest.edges:
        kind, _, name = edge.target.partition(" ")
        if edge.target != "host" and (kind not in ("interface", "program") or name not in known[kind]):
            yield f"edge `{edge.service}.{edge.port}` leads to `{edge.target[:80]}`, which is not there"
    for symbol in manifest.host_symbols:
        if (symbol.device is not None) != (symbol.fact in _FACTS_OF_A_DEVICE):
            yield f"host symbol `{symbol.symbol}` is {symbol.fact}, and {'has' if symbol.device else 'lacks'} a device"


def _map(record: MapRecord) -> Iterator[str]:
    numbers = (record.key_size, record.value_size, record.max_entries, record.flags)
    if any(not 0 <= number <= _U32_MAX for number in numbers):
        yield f"map `{record.name}` has a number that does not fit 32 bits"
    if (record.scope is Scope.SERVICE) != (record.service is not None):
        yield f"map `{record.name}` has scope {record.scope} and {'no' if record.service is None else 'a'} service"
    if len(record.entries) > record.max_entries:
        yield f"map `{record.name}` has room for {record.max_entries} of {len(record.entries)} entries"
    if record.counts and (record.value_size != COUNTER_SIZE or record.role not in (Role.COUNTERS, Role.CONFIG)):
        yield f"map `{record.name}` ({record.role}, values of {record.value_size} bytes) cannot count its entries"
    if record.filled and (record.service is None or record.role is not Role.STATE):
        yield f"map `{record.name}` ({record.role}) is filled, but {'not state' if record.service else 'by no service'}"
    labels = record.role is Role.COUNTERS
    for entry in record.entries:
        if len(entry.key) != record.key_size or len(entry.value) != (0 if labels else record.value_size):
            yield f"an entry of map `{record.name}` (`{entry.path[:80]}`) has not the size of the map's"
            break
    yield from _repeated(f"map `{record.name}`: key", (entry.key.hex() for entry in record.entries))


def _slots(manifest: Manifest) -> Iterator[str]:
    maps = {record.name: record for record in manifest.maps}
    hooks = {program.name: program.hook for program in manifest.programs}
    slots = [(s.map, s.index, frozenset({"BPF_MAP_TYPE_PROG_ARRAY"})) for s in manifest.tail_slots]
    slots += [(s.map, s.index, _DEVMAPS) for s in manifest.device_slots]
    for name, index, allowed in slots:
        record = maps.get(name)
        if record is None:
            continue
        if not 0 <= index < record.max_entries:
            yield f"map `{name}` has no slot {index}"
        if record.type not in allowed or record.role is not Role.LINKS:
            yield f"map `{name}` ({record.type}, {record.role}) has slots"
    for record in manifest.maps:
        held = {hooks.get(slot.program) for slot in manifest.tail_slots if slot.map == record.name}
        if len(held) > 1:
            yield f"prog array `{record.name}` holds programs of two hooks"
    modes = {interface.name: interface.mode for interface in manifest.interfaces}
    for attach in manifest.attach:
        mode, hook = modes.get(attach.interface), hooks.get(attach.program)
        if mode and hook and mode.hook is not hook:
            yield f"interface `{attach.interface}` ({mode}) has a program of hook {hook}"
    for link in manifest.internal_links:
        if hooks.get(link.program, link.hook) is not link.hook:
            yield f"internal link `{link.name}` ({link.hook}) has a program of another hook"


def _values(manifest: Manifest) -> Iterator[str]:
    """An object is loaded once, with one value for each symbol."""
    facts = {symbol.symbol for symbol in manifest.host_symbols}
    given: dict[tuple[str, str], int] = {}
    for program in manifest.programs:
        yield from _repeated(f"program `{program.name}`: value of", (value.symbol for value in program.values))
        for value in program.values:
            if not 0 <= value.value <= _U64_MAX:
                yield f"the value of `{value.symbol}` in program `{program.name}` does not fit 64 bits: {value.value}"
            if value.symbol in facts:
                yield f"`{value.symbol}` is a fact of the host, and program `{program.name}` has a value for it"
            if given.setdefault((program.object, value.symbol), value.value) != value.value:
                yield f"`{value.symbol}` has two values in `{program.object}`"


def _services(manifest: Manifest) -> Iterator[str]:
    maps = {record.name: record for record in manifest.maps}
    for service in manifest.services:
        layout = CounterLayout(len(service.ports))
        counters = maps.get(service.counters)
        if counters and (
            counters.type != "BPF_MAP_TYPE_PERCPU_ARRAY"
            or counters.value_size != layout.size
            or counters.max_entries != len(service.ports)
            or counters.role is not Role.COUNTERS
        ):
            yield f"map `{counters.name}` cannot be the counters of service `{service.name}`"
        if len(set(service.ports)) != len(service.ports):
            yield f"service `{service.name}` has a port twice"
        if any(not layout.drop(0) <= layout.drop(number) < layout.entries for number, _ in service.drop_reasons):
            yield f"service `{service.name}` has a drop reason that is not counted"
        if any(not 0 <= number < SLOW_PATH_REASON_LIMIT for number, _ in service.slow_path_reasons):
            yield f"service `{service.name}` has a slow path reason that no verdict can say"
