"""The manifest: all that the runtime needs to run a compiled chain, as frozen records.

`schemas.manifest_json` writes and reads it as JSON (byte strings are lower-case hex there), `schemas.compiled` keeps it
in a directory together with its objects. Names refer to records of the same manifest (`schemas.references`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

FORMAT = 3
"""Version of this layout; a runtime refuses a manifest of another one."""


class Mode(StrEnum):
    """How a chain meets an interface; the attach mode of XDP, or the TC ingress hook."""

    NATIVE = "native"
    GENERIC = "generic"
    TC = "tc"

    @property
    def hook(self) -> Hook:
        return Hook.TC if self is Mode.TC else Hook.XDP


class Hook(StrEnum):
    """What a program is written against; native and generic XDP run the same object."""

    XDP = "xdp"
    TC = "tc"


class Scope(StrEnum):
    """Who shares a map: the programs of one service, or the whole chain."""

    SERVICE = "service"
    CHAIN = "chain"


class Role(StrEnum):
    """What becomes of a map's content when a new generation is applied."""

    STATE = "state"  # learned at run time: adopted or migrated
    COUNTERS = "counters"  # counted at run time: adopted
    CONFIG = "config"  # from the chain file: updated in place
    LINKS = "links"  # prog arrays and devmaps: made anew for each generation
    SCRATCH = "scratch"  # the slow path's ring and its working memory: made anew for each generation


class HostFact(StrEnum):
    """What the loader writes into programs, because only the host knows it."""

    IFINDEX = "ifindex"  # u32, of `device`
    MAC = "mac"  # 6 bytes, of `device`
    MTU = "mtu"  # u32, of `device`
    HZ = "hz"  # u32, jiffies a second
    RECEIVER = "receiver"  # u32, ifindex of the `b` end of internal link `device`


class SourceRecord(Struct, frozen=True):
    """The chain file that was compiled."""

    file: str
    sha256: str


class InterfaceRecord(Struct, frozen=True):
    """A netdevice of the host, under the chain's own name for it; `netns` None is the caller's.

    With `vlan` it is a share of another interface's device: this VLAN, or (0) the frames without one. A service of the
    chain sorts them, so no program is attached to it.
    """

    name: str
    device: str
    mode: Mode
    netns: str | None
    span: str
    vlan: int | None = None


class InternalLinkRecord(Struct, frozen=True):
    """A veth pair that carries flooded copies, or control planes' frames: sent into `a`, received at `b` by `program`.

    `interface` names the interface in whose network namespace the pair is made. Used like a device under `name`.
    """

    name: str
    hook: Hook
    program: str
    interface: str


class ObjectRecord(Struct, frozen=True):
    """A compiled object: path relative to the manifest, and the SHA-256 of its bytes."""

    file: str
    sha256: str


class LineRecord(Struct, frozen=True):
    """From line `c_line` of the program's C unit on, code stems from `span` (`edge.yaml:14:3`)."""

    c_line: int
    span: str


class ConstantRecord(Struct, frozen=True):
    """A value compiled into a program: `path` in the chain's terms (`br0.fdb.aging`), `value` as written there."""

    path: str
    value: str
    span: str


class ValueRecord(Struct, frozen=True):
    """The loader writes `value`, of 64 bits, into each instruction of the program that loads `symbol`."""

    symbol: str
    value: int


class ProgramRecord(Struct, frozen=True):
    """One program: what runs for packets that arrive on `port` of `service` at `hook`. `function` is its ELF symbol.

    Without a service it is the one that control planes' frames go through on their way to a port's program. An `egress`
    program runs for packets that leave by `port` through a slot of a devmap.
    """

    name: str
    service: str | None
    port: str | None
    hook: Hook
    object: str
    function: str
    span: str
    constants: tuple[ConstantRecord, ...]
    lines: tuple[LineRecord, ...]
    egress: bool = False
    values: tuple[ValueRecord, ...] = ()


class EntryRecord(Struct, frozen=True):
    """An initial map entry; `path` is the place in the chain file that it stands for."""

    key: bytes
    value: bytes
    path: str
    span: str


class MapRecord(Struct, frozen=True):
    """A map. `type` is the UAPI name (`BPF_MAP_TYPE_HASH`), `layout` a hash of what entries mean (not of max_entries).

    `meaning` is what `layout` is a hash of, in the service's own words (`bridge fdb/1 p1 p2`).
    Entries of a CONFIG map are its first content. Entries of a COUNTERS map are labels: `path` says what element `key`
    counts (`guard.block.sources 198.51.100.0/24`), `value` is empty. `counts`: the value of each such entry is a
    `struct counter` of what its path says, and nothing but that.
    `filled`: a digest of what the service's run-time side fills it with, together with the service's other such maps,
    before it is used (runtime/filling.py); empty where nothing does that.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    scope: Scope
    role: Role
    service: str | None
    layout: str
    meaning: str
    counts: bool
    filled: str
    entries: tuple[EntryRecord, ...]
    span: str


class TailSlotRecord(Struct, frozen=True):
    """Entry `index` of prog array `map` holds `program`."""

    map: str
    index: int
    program: str
    span: str


class DeviceSlotRecord(Struct, frozen=True):
    """Entry `index` of devmap `map` leads to `device`: an interface's name, or an internal link's (its `a` end).

    `program` is the egress program that each packet meets there, or None.
    """

    map: str
    index: int
    device: str
    program: str | None = None


class HostSymbolRecord(Struct, frozen=True):
    """Likewise `fact` (of `device`, where it has one), as a number with its first byte lowest, in every program."""

    symbol: str
    fact: HostFact
    device: str | None


class AttachRecord(Struct, frozen=True):
    """`program` receives what arrives on `interface`."""

    interface: str
    program: str


class EdgeRecord(Struct, frozen=True):
    """A link as packets take it: out of `service.port` into `target`: `interface NAME`, `program NAME` or `host`."""

    service: str
    port: str
    target: str
    span: str


class ServiceRecord(Struct, frozen=True):
    """A service; `counters` names its per-CPU array (`CounterLayout`), drop reasons are (number, name) pairs.

    `slow_path_reasons` are the (number, name) pairs for which it sends packets up to its control plane; `upcalls` then
    names the map that counts them, with a label for each count, and is empty otherwise. `control` is what its control
    plane has to know, as plain JSON data; None where it has none.

    `counts_copies`: each copy of a flood is counted where it leaves, because not every port gets one.
    """

    name: str
    kind: str
    ports: tuple[str, ...]
    counters: str
    drop_reasons: tuple[tuple[int, str], ...]
    slow_path_reasons: tuple[tuple[int, str], ...]
    upcalls: str
    control: Mapping[str, Any] | None
    span: str
    counts_copies: bool = False


class Manifest(Struct, frozen=True):
    """A compiled chain, complete but for the bytes of its objects."""

    format: int
    version: str
    chain: str
    source: SourceRecord
    features: tuple[str, ...]
    interfaces: tuple[InterfaceRecord, ...]
    internal_links: tuple[InternalLinkRecord, ...]
    services: tuple[ServiceRecord, ...]
    objects: tuple[ObjectRecord, ...]
    programs: tuple[ProgramRecord, ...]
    maps: tuple[MapRecord, ...]
    tail_slots: tuple[TailSlotRecord, ...]
    device_slots: tuple[DeviceSlotRecord, ...]
    host_symbols: tuple[HostSymbolRecord, ...]
    attach: tuple[AttachRecord, ...]
    edges: tuple[EdgeRecord, ...]
