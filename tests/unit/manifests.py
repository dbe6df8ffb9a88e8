"""A manifest with one of everything, built by hand: a guard in front of a bridge, attached natively."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from schemas.compiled import CompiledChain, object_file
from schemas.counters import CounterLayout
from schemas.manifest import (
    FORMAT,
    AttachRecord,
    ConstantRecord,
    DeviceSlotRecord,
    EdgeRecord,
    EntryRecord,
    Hook,
    HostFact,
    HostSymbolRecord,
    InterfaceRecord,
    InternalLinkRecord,
    LineRecord,
    Manifest,
    MapRecord,
    Mode,
    ObjectRecord,
    ProgramRecord,
    Role,
    Scope,
    ServiceRecord,
    SourceRecord,
    TailSlotRecord,
    ValueRecord,
)

OBJECTS = {
    name: f"object of {name}".encode() for name in ("guard__outside__xdp", "guard__inside__xdp", "br0__lan__xdp")
}
REASONS = ((0, "truncated"), (9, "blocked-source"))


def program(name: str, content: bytes | None = None, **constants: str) -> ProgramRecord:
    """`SERVICE__PORT__xdp` with these constants (`aging="300s"` becomes `SERVICE.aging`)."""
    service, port, _ = name.split("__")
    return ProgramRecord(
        name=name,
        service=service,
        port=port,
        hook=Hook.XDP,
        object=object_file(content or OBJECTS[name]),
        function=name,
        span="edge.yaml:10",
        constants=tuple(ConstantRecord(f"{service}.{key}", value, "edge.yaml:14") for key, value in constants.items()),
        lines=(LineRecord(1, "edge.yaml:10:3"), LineRecord(30, "edge.yaml:14:5")),
    )


MAP = MapRecord(
    name="br0__map",
    type="BPF_MAP_TYPE_ARRAY",
    key_size=4,
    value_size=8,
    max_entries=1,
    flags=0,
    scope=Scope.SERVICE,
    role=Role.STATE,
    service="br0",
    layout="0",
    meaning="test",
    counts=False,
    filled="",
    entries=(),
    span="edge.yaml:10",
)
"""A map, for what has to be said of one beside what matters."""


def counters(service: str, ports: int) -> MapRecord:
    return replace(
        MAP,
        name=f"{service}__counters",
        type="BPF_MAP_TYPE_PERCPU_ARRAY",
        value_size=CounterLayout(ports).size,
        max_entries=ports,
        role=Role.COUNTERS,
        service=service,
        layout="0c",
        meaning="counters/1",
    )


def blocked(*prefixes: str) -> MapRecord:
    """Labelled counters, as the manifest has them for entries that are code."""
    return replace(
        counters("guard", 2),
        name="guard__blocked",
        value_size=16,
        counts=True,
        max_entries=max(1, len(prefixes)),
        layout=hashlib.sha256(" ".join(prefixes).encode()).hexdigest()[:16],
        entries=tuple(
            EntryRecord(index.to_bytes(4, "little"), b"", f"guard.block.sources {prefix}", "edge.yaml:12")
            for index, prefix in enumerate(prefixes)
        ),
    )


def fdb(size: int = 64, layout: str = "fdb1") -> MapRecord:
    return replace(
        MAP,
        name="br0__fdb",
        type="BPF_MAP_TYPE_HASH",
        key_size=8,
        value_size=16,
        max_entries=size,
        layout=layout.encode().hex(),
        meaning=layout,
        span="edge.yaml:20",
    )


def listed(**entries: int) -> MapRecord:
    """A configured map: `a=1` is an entry with key `a` and value 1."""
    return replace(
        fdb(),
        name="guard__list",
        key_size=1,
        value_size=4,
        max_entries=8,
        role=Role.CONFIG,
        service="guard",
        layout="115",
        entries=tuple(
            EntryRecord(key.encode(), value.to_bytes(4, "little"), f"guard.list {key}", f"edge.yaml:{30 + value}")
            for key, value in entries.items()
        ),
    )


def links(name: str, type: str, slots: int, service: str | None, value_size: int = 8) -> MapRecord:
    return replace(
        MAP,
        name=name,
        type=type,
        value_size=value_size,
        max_entries=slots,
        scope=Scope.SERVICE if service else Scope.CHAIN,
        role=Role.LINKS,
        service=service,
        layout="11",
        meaning="links/1",
        span="edge.yaml:40",
    )


def sample() -> Manifest:
    return Manifest(
        format=FORMAT,
        version="0.1.0",
        chain="edge",
        source=SourceRecord("edge.yaml", "ab" * 32),
        features=("program:xdp", "map:BPF_MAP_TYPE_HASH"),
        interfaces=(
            InterfaceRecord("wan", "eth0", Mode.NATIVE, None, "edge.yaml:4"),
            InterfaceRecord("lan", "eth1", Mode.GENERIC, "blue", "edge.yaml:5"),
        ),
        internal_links=(InternalLinkRecord("br0.up-xdp", Hook.XDP, "guard__inside__xdp", "lan"),),
        services=(
            ServiceRecord(
                "guard",
                "ddos",
                ("outside", "inside"),
                "guard__counters",
                REASONS,
                ((0, "unknown"),),
                "",
                None,
                "edge.yaml:10",
            ),
            ServiceRecord(
                "br0", "bridge", ("up", "lan"), "br0__counters", REASONS, (), "", {"aging": [300, "s"]}, "edge.yaml:20"
            ),
        ),
        objects=tuple(ObjectRecord(object_file(c), hashlib.sha256(c).hexdigest()) for c in OBJECTS.values()),
        programs=(
            replace(program("guard__outside__xdp", limit="10/s"), values=(ValueRecord("value_guard__limit", 10),)),
            program("guard__inside__xdp"),
            program("br0__lan__xdp", aging="300s"),
        ),
        maps=(
            fdb(),
            listed(a=1, b=2),
            blocked("198.51.100.0/24"),
            counters("guard", 2),
            counters("br0", 2),
            links("br0__tx", "BPF_MAP_TYPE_DEVMAP", 2, "br0"),
            links("chain_xdp", "BPF_MAP_TYPE_PROG_ARRAY", 1, None, value_size=4),
        ),
        tail_slots=(TailSlotRecord("chain_xdp", 0, "guard__inside__xdp", "edge.yaml:41"),),
        device_slots=(DeviceSlotRecord("br0__tx", 0, "br0.up-xdp"), DeviceSlotRecord("br0__tx", 1, "lan")),
        host_symbols=(
            HostSymbolRecord("host_hz", HostFact.HZ, None),
            HostSymbolRecord("host_mac_wan", HostFact.MAC, "wan"),
        ),
        attach=(AttachRecord("wan", "guard__outside__xdp"), AttachRecord("lan", "br0__lan__xdp")),
        edges=(
            EdgeRecord("guard", "inside", "program guard__inside__xdp", "edge.yaml:41"),
            EdgeRecord("br0", "lan", "interface lan", "edge.yaml:42"),
            EdgeRecord("guard", "outside", "host", "edge.yaml:43"),
        ),
    )


def sample_chain() -> CompiledChain:
    return CompiledChain(sample(), {object_file(content): content for content in OBJECTS.values()})


def with_map(manifest: Manifest, *records: MapRecord) -> Manifest:
    """The manifest with these maps in the place of those of the same name, or behind the others."""
    new = {record.name: record for record in records}
    kept = [new.pop(record.name, record) for record in manifest.maps]
    return replace(manifest, maps=(*kept, *new.values()))


def with_program(manifest: Manifest, record: ProgramRecord) -> Manifest:
    """The manifest with another program under a name that it has; its object is listed."""
    programs = tuple(record if p.name == record.name else p for p in manifest.programs)
    files = {p.object for p in programs}
    objects = [found for found in manifest.objects if found.file in files]
    if record.object not in {found.file for found in objects}:
        objects.append(ObjectRecord(record.object, record.object.removeprefix("objects/").removesuffix(".o")))
    return replace(manifest, programs=programs, objects=tuple(objects))
