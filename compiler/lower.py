"""`Chain` → `ChainIR`: a program for each port and hook where packets can arrive, and what joins them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from schemas.counters import CounterLayout
from schemas.manifest import Hook, HostFact, Role

from .inject import inject
from .ir import (
    Attach,
    ChainIR,
    DeviceSlot,
    Edge,
    FloodCopy,
    HostBound,
    HostSymbol,
    InternalLink,
    LoweredPort,
    MapDef,
    Program,
    TailSlot,
    Target,
    ToHost,
    ToInterface,
    ToProgram,
    VirtualPort,
)
from .maps import array, links_map, map_name, port_order
from .model import Chain, Host, Interface, LinkEnd, Port, ServiceInstance
from .names import c_name as c_name
from .slow_path import (
    RING,
    SCRATCH,
    buckets_map,
    shared_slow_path_maps,
    slow_path_constants,
    slow_path_maps,
    upcalls_map,
)

_COUNTERS = "counters"
DEVMAP_ENTRY_SIZE = 8  # struct bpf_devmap_val: ifindex, fd of an egress program


def lower(chain: Chain) -> ChainIR:
    """Specialise every service for every port and hook that packets can reach."""
    origins = _origins(chain)
    arrivals = tuple(origins)
    slots = _tail_slots(chain, arrivals)
    receiving = tuple(_program(chain, port, hook, slots) for port, hook in arrivals)
    injection = inject(chain, receiving, origins)
    receiving = tuple(
        replace(program, injection=injection.ways.get(program.name)) if program.instance.service.injects else program
        for program in receiving
    )
    programs = (*receiving, *_egress_programs(chain, receiving))
    links = _internal_links(chain, receiving, origins)
    return ChainIR(
        name=chain.name,
        file=chain.file,
        sha256=chain.sha256,
        interfaces=chain.interfaces,
        shared=chain.shared,
        services=chain.services,
        ports=tuple(_virtual_ports(chain)),
        programs=programs,
        injectors=injection.injectors,
        maps=(*_maps(chain, programs, slots), *injection.maps),
        tail_slots=(*slots.values(), *injection.slots),
        device_slots=tuple(_device_slots(chain, programs)),
        internal_links=(*links, *injection.links),
        host_symbols=tuple(_host_symbols(programs)),
        attach=tuple(
            Attach(interface.name, program_name(port, interface.mode.hook))
            for interface in chain.interfaces
            if isinstance(port := chain.peer(interface), Port)
        ),
        slow_path=chain.slow_path,
    )


def port_name(port: Port) -> str:
    """`br0__p1`: prefix of everything that belongs to one port."""
    return f"{c_name(port.service)}__{c_name(port.name)}"


def program_name(port: Port, hook: Hook) -> str:
    """`br0__p1__xdp`."""
    return f"{port_name(port)}__{hook}"


def egress_name(port: Port) -> str:
    """`br0__p1__egress`: what copies of floods pass before they leave by a port at XDP."""
    return f"{port_name(port)}__egress"


def prog_array(hook: Hook) -> str:
    """The chain's prog array for one hook: program types must not mix in one (kernel commit 4540aed51b12)."""
    return f"chain_{hook}"


def counters_map(service: str) -> str:
    """The per-CPU array of a service's counters."""
    return map_name(service, _COUNTERS)


def devmap(service: str) -> str:
    """The devmap that leads out of a service's ports; the slot is the port's index."""
    return map_name(service, "tx")


def flood_map(port: Port) -> str:
    """The devmap of everything that a flood from this port reaches."""
    return f"{port_name(port)}__flood"


def host_symbol(fact: HostFact, device: str | None) -> str:
    """`host_ifindex_lan`, `host_hz`."""
    return f"host_{fact}_{c_name(device)}" if device else f"host_{fact}"


def value_symbol(path: str) -> str:
    """`value_br0__fdb__aging`: what stands in code for a constant that the loader fills in."""
    return f"value_{c_name(path)}"


def internal_link(port: Port, hook: Hook) -> str:
    """`br0.uplink-xdp`: the veth pair by which floods leave through a port that leads to another service."""
    return f"{port}-{hook}"


def _origins(chain: Chain) -> dict[tuple[Port, Hook], str]:
    """Every (port, hook) that packets can reach, in the order of the file, with an interface that they come from."""
    reached: dict[tuple[Port, Hook], str] = {}
    pending = [
        (peer, interface.mode.hook, interface.name)
        for interface in chain.interfaces
        if isinstance(peer := chain.peer(interface), Port)
    ]
    while pending:
        port, hook, origin = pending.pop()
        if (port, hook) in reached:
            continue
        reached[port, hook] = origin
        for out in chain.service(port.service).ways_out(port):
            if isinstance(peer := chain.peer(out), Port):
                pending.append((peer, hook, origin))
    ports = [port for service in chain.services for port in service.ports]
    return {(port, hook): reached[port, hook] for port in ports for hook in Hook if (port, hook) in reached}


def _tail_slots(chain: Chain, arrivals: Iterable[tuple[Port, Hook]]) -> dict[tuple[Port, Hook], TailSlot]:
    """A slot for every program that another service's port leads to, numbered from 0 for each hook."""
    slots: dict[tuple[Port, Hook], TailSlot] = {}
    used = dict.fromkeys(Hook, 0)
    for port, hook in arrivals:
        link = chain.link(port)
        if not isinstance(link.other(port), Port):
            continue
        slots[port, hook] = TailSlot(prog_array(hook), used[hook], program_name(port, hook), link.span)
        used[hook] += 1
    return slots


def _program(chain: Chain, port: Port, hook: Hook, slots: dict[tuple[Port, Hook], TailSlot]) -> Program:
    instance = chain.service(port.service)
    lowered = _lowered(chain, instance, port, hook)
    edges = tuple(_edge(chain, out, hook, slots) for out in instance.ways_out(port))
    flood = _flood(chain, instance, port, hook) if instance.service.floods else ()
    return Program(
        name=program_name(port, hook),
        instance=instance,
        port=port.name,
        port_index=port.index,
        hook=hook,
        lowered=lowered,
        edges=edges,
        flood=flood,
        maps=tuple(_maps_of(instance, port, hook, lowered, edges, flood)),
        span=port.span,
    )


def _lowered(chain: Chain, instance: ServiceInstance, port: Port, hook: Hook) -> LoweredPort:
    """What the service says of a program, and what the chain adds."""
    lowered = instance.service.lower(instance, port, hook)
    if not instance.slow_path_reasons:
        return lowered
    return replace(lowered, constants=(*lowered.constants, *slow_path_constants(chain.slow_path)))


def _egress_programs(chain: Chain, receiving: tuple[Program, ...]) -> Iterator[Program]:
    """One for each port that XDP floods leave by in a form of the port's own."""
    ports = {
        program.instance.port(copy.port): program.instance
        for program in receiving
        if program.lowered.transmits and program.hook is Hook.XDP
        for copy in program.flood
        if copy.device
    }
    for port, instance in ports.items():
        lowered = _lowered(chain, instance, port, Hook.XDP)
        maps = tuple(_maps_of(instance, port, Hook.XDP, lowered, (), ()))
        yield Program(
            egress_name(port), instance, port.name, port.index, Hook.XDP, lowered, (), (), maps, port.span, egress=True
        )


def _edge(chain: Chain, out: Port, hook: Hook, slots: dict[tuple[Port, Hook], TailSlot]) -> Edge:
    link = chain.link(out)
    return Edge(out.service, out.name, out.index, _target(link.other(out), hook, slots), link.span)


def _target(end: LinkEnd, hook: Hook, slots: dict[tuple[Port, Hook], TailSlot]) -> Target:
    match end:
        case Interface():
            return ToInterface(end.name)
        case Port():
            slot = slots[end, hook]
            return ToProgram(slot.program, slot.index)
        case Host():
            return ToHost()


def _flood(chain: Chain, instance: ServiceInstance, incoming: Port, hook: Hook) -> tuple[FloodCopy, ...]:
    """Who receives a flood from `incoming`.

    A copy goes to a device. One receiver may get the packet itself, by its port's edge: the only receiver there is, or
    at TC, where clones are sent first, the host or else another service, which then needs no device.
    """
    outs = instance.ways_out(incoming)
    ends = {out: chain.peer(out) for out in outs}
    original = outs[0] if len(outs) == 1 else None
    if hook is Hook.TC and not original:
        off_device = [out for out in outs if not isinstance(ends[out], Interface)]
        original = min(off_device, key=lambda out: not isinstance(ends[out], Host), default=None)
    return tuple(
        FloodCopy(out.name, out.index, None if out == original else _flood_device(out, ends[out], hook)) for out in outs
    )


def _flood_device(out: Port, end: LinkEnd, hook: Hook) -> str:
    return end.name if isinstance(end, Interface) else internal_link(out, hook)


def _internal_links(
    chain: Chain, programs: tuple[Program, ...], origins: dict[tuple[Port, Hook], str]
) -> tuple[InternalLink, ...]:
    """A veth pair for each port into another service that a flood must reach as one of several copies.

    It is made beside an interface whose packets flood into it: at TC an ifindex means something in one namespace only.
    """
    interfaces = {interface.name for interface in chain.interfaces}
    links: dict[str, InternalLink] = {}
    for program in programs:
        home = origins[program.instance.port(program.port), program.hook]
        for copy in program.flood:
            if copy.device is None or copy.device in interfaces:
                continue
            peer = chain.peer(program.instance.port(copy.port))
            assert isinstance(peer, Port), "resolve has refused floods to the host at XDP"
            links[copy.device] = InternalLink(copy.device, program.hook, program_name(peer, program.hook), home)
    return tuple(links.values())


def _uses_flood_map(hook: Hook, flood: tuple[FloodCopy, ...]) -> bool:
    return hook is Hook.XDP and any(copy.device for copy in flood)


def _maps_of(
    instance: ServiceInstance,
    port: Port,
    hook: Hook,
    lowered: LoweredPort,
    edges: tuple[Edge, ...],
    flood: tuple[FloodCopy, ...],
) -> Iterator[str]:
    """Names of the maps that a program refers to: its service's own, then those of the glue."""
    yield from (definition.name for definition in lowered.maps)
    yield counters_map(port.service)
    if instance.slow_path_reasons:
        yield from (upcalls_map(port.service), buckets_map(port.service), RING, SCRATCH)
    if hook is Hook.XDP and any(isinstance(edge.target, ToInterface) for edge in edges):
        yield devmap(port.service)
    if _uses_flood_map(hook, flood):
        yield flood_map(port)
    if any(isinstance(edge.target, ToProgram) for edge in edges):
        yield prog_array(hook)


def _maps(chain: Chain, programs: tuple[Program, ...], slots: dict[tuple[Port, Hook], TailSlot]) -> Iterator[MapDef]:
    """Every map of the chain once: the services' own, their counters, and what links them."""
    own: dict[str, MapDef] = {}
    for program in programs:
        own.update((definition.name, definition) for definition in program.lowered.maps)
    yield from own.values()
    used = {name for program in programs for name in program.maps}
    for service in chain.services:
        if counters_map(service.name) in used:
            yield _counters(service, copies=counts_copies(programs, service))
        if upcalls_map(service.name) in used:
            yield from slow_path_maps(service)
        if devmap(service.name) in used:
            yield _devmap(devmap(service.name), len(service.ports), service)
        for port in service.ports:
            if flood_map(port) in used:
                yield _devmap(flood_map(port), len(service.ports), service)
    sender = next((service for service in chain.services if service.slow_path_reasons), None)
    if RING in used and sender:
        yield from shared_slow_path_maps(sender.span)
    for hook in Hook:
        taken = [slot for slot in slots.values() if slot.map == prog_array(hook)]
        if prog_array(hook) in used:
            yield links_map(prog_array(hook), "BPF_MAP_TYPE_PROG_ARRAY", "__u32", 4, len(taken), taken[0].span)


def counts_copies(programs: Iterable[Program], service: ServiceInstance) -> bool:
    """Whether the copies of a service's floods are counted where they leave."""
    return any(program.lowered.transmits for program in programs if program.service == service.name)


def _counters(service: ServiceInstance, *, copies: bool) -> MapDef:
    layout = CounterLayout(len(service.ports))
    reasons = " ".join(f"{number}={name}" for number, name in service.service.drop_reasons)
    return array(
        service,
        _COUNTERS,
        "struct counters",
        layout.size,
        len(service.ports),
        role=Role.COUNTERS,
        layout=f"counters/{2 if copies else 1} {port_order(service)} {reasons}",
        span=service.span,
        per_cpu=True,
    )


def _devmap(name: str, slots: int, service: ServiceInstance) -> MapDef:
    value_type = "struct bpf_devmap_val"
    return links_map(name, "BPF_MAP_TYPE_DEVMAP", value_type, DEVMAP_ENTRY_SIZE, slots, service.span, service.name)


def _device_slots(chain: Chain, programs: tuple[Program, ...]) -> Iterator[DeviceSlot]:
    """What the loader writes into devmaps: each service's way out of its ports, then each port's flood."""
    used = {name for program in programs for name in program.maps}
    for service in chain.services:
        if devmap(service.name) in used:
            for port in service.ports:
                if isinstance(peer := chain.peer(port), Interface):
                    yield DeviceSlot(devmap(service.name), port.index, peer.name)
    for program in programs:
        if not _uses_flood_map(program.hook, program.flood):
            continue
        name = flood_map(program.instance.port(program.port))
        for index, copy in enumerate(copy for copy in program.flood if copy.device):
            egress = egress_name(program.instance.port(copy.port)) if program.lowered.transmits else None
            yield DeviceSlot(name, index, copy.device or "", egress)


def _host_symbols(programs: tuple[Program, ...]) -> Iterator[HostSymbol]:
    """Every fact about the host that some program reads, once."""
    facts = {fact: None for program in programs for fact in program_facts(program)}
    for fact, device in facts:
        yield HostSymbol(host_symbol(fact, device), fact, device)


def program_facts(program: Program) -> Iterator[tuple[HostFact, str | None]]:
    """The host-bound facts that one program reads: its configuration's, where frames of its control plane come from,
    and at TC the ifindexes that it sends to.
    """
    for constant in program.lowered.constants:
        if isinstance(constant.home, HostBound):
            yield constant.home.fact, constant.home.device
    if program.instance.slow_path_reasons:
        yield HostFact.HZ, None
    if program.injection:
        yield HostFact.RECEIVER, program.injection
    if program.hook is not Hook.TC:
        return
    for edge in program.edges:
        if isinstance(edge.target, ToInterface):
            yield HostFact.IFINDEX, edge.target.interface
    for copy in program.flood:
        if copy.device:
            yield HostFact.IFINDEX, copy.device


def reached_services(ir: ChainIR) -> tuple[ServiceInstance, ...]:
    """The services that packets can reach, in the order in which the manifest lists them."""
    reached = {program.service for program in ir.programs}
    return tuple(instance for instance in ir.services if instance.name in reached)


def _virtual_ports(chain: Chain) -> Iterator[VirtualPort]:
    for service in chain.services:
        for port in service.ports:
            yield VirtualPort(port.service, port.name, port.index, _end_text(chain.peer(port)), port.span)


def _end_text(end: LinkEnd) -> str:
    match end:
        case Interface():
            return f"interface {end.name}"
        case Port():
            return str(end)
        case Host():
            return "host"


def layout_hash(definition: MapDef) -> str:
    """What decides whether a running map's entries mean the same to new programs; max_entries is not part of it."""
    facts = [definition.type, definition.key_size, definition.value_size, definition.flags, definition.layout]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
