"""The manifest: all that the runtime needs to run a compiled chain, as frozen records.

`schemas.manifest_json` writes and reads it as JSON (byte strings are lower-case hex there), `schemas.compiled` keeps it
in a directory together with its objects. Names refer to records of the same manifest (`schemas.references`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FORMAT = 1
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


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The chain file that was compiled."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class InterfaceRecord:
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


@dataclass(frozen=True, slots=True)
class InternalLinkRecord:
    """A veth pair that carries flooded copies, or control planes' frames: sent into `a`, received at `b` by `program`.

    `interface` names the interface in whose network namespace the pair is made. Used like a device under `name`.
    """

    name: str
    hook: Hook
    program: str
    interface: str


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """A compiled object: path relative to the manifest, and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LineRecord:
    """From line `c_line` of the program's C unit on, code stems from `span` (`edge.yaml:14:3`)."""

    c_line: int
    span: str


@dataclass(frozen=True, slots=True)
class ConstantRecord:
    """A value compiled into a program: `path` in the chain's terms (`br0.fdb.aging`), `value` as written there."""

    path: str
    value: str
    span: str


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """The loader writes `value`, of 64 bits, into each instruction of the program that loads `symbol`."""

    symbol: str
    value: int


@dataclass(frozen=True, slots=True)
class ProgramRecord:
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


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """An initial map entry; `path` is the place in the chain file that it stands for."""

    key: bytes
    value: bytes
    path: str
    span: str


@dataclass(frozen=True, slots=True)
class MapRecord:
    """A map. `type` is the UAPI name (`BPF_MAP_TYPE_HASH`), `layout` a hash of what entries mean (not of max_entries).

    `meaning` is what `layout` is a hash of, in the service's own words (`bridge fdb/1 p1 p2`).
    Entries of a CONFIG map are its first content. Entries of a COUNTERS map are labels: `path` says what element `key`
    counts (`guard.block.sources 198.51.100.0/24`), `value` is empty. `counts`: the value of each such entry is a
    `struct counter` of what its path says, and nothing but that.
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
    entries: tuple[EntryRecord, ...]
    span: str


@dataclass(frozen=True, slots=True)
class TailSlotRecord:
    """Entry `index` of prog array `map` holds `program`."""

    map: str
    index: int
    program: str
    span: str


@dataclass(frozen=True, slots=True)
class DeviceSlotRecord:
    """Entry `index` of devmap `map` leads to `device`: an interface's name, or an internal link's (its `a` end).

    `program` is the egress program that each packet meets there, or None.
    """

    map: str
    index: int
    device: str
    program: str | None = None


@dataclass(frozen=True, slots=True)
class HostSymbolRecord:
    """Likewise `fact` (of `device`, where it has one), as a number with its first byte lowest, in every program."""

    symbol: str
    fact: HostFact
    device: str | None


@dataclass(frozen=True, slots=True)
class AttachRecord:
    """`program` receives what arrives on `interface`."""

    interface: str
    program: str


@dataclass(frozen=True, slots=True)
class EdgeRecord:
    """A link as packets take it: out of `service.port` into `target`: `interface NAME`, `program NAME` or `host`."""

    service: str
    port: str
    target: str
    span: str


@dataclass(frozen=True, slots=True)
class ServiceRecord:
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


@dataclass(frozen=True, slots=True)
class Manifest:
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
