"""The intermediate representation: a chain as programs, maps and edges, every one with the place it came from.

`lower` makes it, `verify` checks it, `emit` writes C from it, `build` writes the manifest from it. All of it is
immutable.
"""

from __future__ import annotations

from msgspec import Struct

from schemas.diagnostic import Span
from schemas.manifest import Hook, HostFact, Role, Scope

from .model import Interface, ServiceInstance, SlowPath
from .templates import Rendering

ProgramName = str
MapName = str


class Inlined(Struct, frozen=True):
    """Compiled in: `literal` initialises field `field` of the config; field "" is part of generated code."""

    field: str
    literal: str


class InMap(Struct, frozen=True):
    """An entry of map `map` that is there from the start."""

    map: MapName
    key: bytes
    value: bytes


class LoadTime(Struct, frozen=True):
    """Compiled in as a blank, into which the loader writes `value`: another value needs no other object.

    For numbers by which no code is chosen, of 64 bits: field `field` of the config is a `__u64`. Field "" is for
    generated code, which names the symbol itself (`lower.value_symbol`).
    """

    field: str
    value: int


class HostBound(Struct, frozen=True):
    """Known only on the host: a blank likewise. Field `field` of the config is a `__u64`.

    Field "" is for generated code, which names the symbol itself (`lower.host_symbol`).
    """

    field: str
    fact: HostFact
    device: str | None  # name of the interface whose fact it is


class Constant(Struct, frozen=True):
    """One value of the configuration and its home: in code, in a blank of it, in a map, or on the host.

    `path` is where people know it (`br0.fdb.aging`), `value` how they wrote it (`300s`), `meaning` what it is for.
    """

    path: str
    value: str
    meaning: str
    home: Inlined | LoadTime | InMap | HostBound
    span: Span


class MapDef(Struct, frozen=True):
    """A map and its entries.

    `key_type` and `value_type` are C types (`struct fdb_key`, `__u64`); `layout` names what entries mean ("fdb/1") and
    changes whenever that does. `type` is the UAPI name. `field`: the config struct's field that points to it, or "".
    `counts`: each of `entries` has a `struct counter` for a value, which counts what the entry's path says.
    `filled`: a digest of what the run-time side fills it with before it is used; another one is another content.
    """

    name: MapName
    type: str
    key_type: str
    key_size: int
    value_type: str
    value_size: int
    max_entries: int
    scope: Scope
    role: Role
    layout: str
    span: Span
    flags: int = 0
    field: str = ""
    service: str | None = None
    counts: bool = False
    filled: str = ""
    entries: tuple[Constant, ...] = ()


class GeneratedFunction(Struct, frozen=True):
    """A table that became code: a `static __always_inline` function `name`; config field `field` is set to it.

    `source` is its C, or what that is made from: usually the object is there already, and nobody asks for the text.
    """

    field: str
    name: str
    source: str | Rendering
    span: Span

    @property
    def text(self) -> str:
        return self.source if isinstance(self.source, str) else self.source.text()


class LoweredPort(Struct, frozen=True):
    """What a service says of the program for one incoming port: everything else is the same for every service.

    `transmits`: each copy of a flood is first given to the service's `KIND_transmit` (compiler/service.py).
    """

    constants: tuple[Constant, ...]
    maps: tuple[MapDef, ...] = ()
    functions: tuple[GeneratedFunction, ...] = ()
    transmits: bool = False


class VirtualPort(Struct, frozen=True):
    """A port of a service; `peer` is the text form of the link's other end (`interface wan`, `gw.up`, `host`)."""

    service: str
    name: str
    index: int
    peer: str
    span: Span


class ToInterface(Struct, frozen=True):
    """Out of an interface. XDP: slot `port index` of the service's devmap; TC: its ifindex, a host-bound symbol."""

    interface: str

    def __str__(self) -> str:
        return f"interface {self.interface}"


class ToProgram(Struct, frozen=True):
    """By tail call into the program of the port across the link; program and slot are of the same hook."""

    program: ProgramName
    slot: int

    def __str__(self) -> str:
        return f"program {self.program}"


class ToHost(Struct, frozen=True):
    """Up into this machine's own stack."""

    def __str__(self) -> str:
        return "host"


Target = ToInterface | ToProgram | ToHost


class Edge(Struct, frozen=True):
    """Where packets go that leave by port `port` (`index` in its service)."""

    service: str
    port: str
    index: int
    target: Target
    span: Span


class FloodCopy(Struct, frozen=True):
    """One receiver of a flooded frame: device `device` (an interface or an internal link); None: by the port's edge."""

    port: str
    index: int
    device: str | None


class Program(Struct, frozen=True):
    """What runs for packets that arrive on `port` of `instance` at `hook`. `flood` is empty where it cannot flood.

    An `egress` program runs for copies of floods that are about to leave by `port` out of a devmap (XDP). `injection`
    is the internal link by which the control plane's frames come to it, where the service has such.
    """

    name: ProgramName
    instance: ServiceInstance
    port: str
    port_index: int
    hook: Hook
    lowered: LoweredPort
    edges: tuple[Edge, ...]
    flood: tuple[FloodCopy, ...]
    maps: tuple[MapName, ...]
    span: Span
    egress: bool = False
    injection: str | None = None

    @property
    def service(self) -> str:
        return self.instance.name


class Injector(Struct, frozen=True):
    """What runs for frames that control planes send in at `hook`: it goes to the program in one of the slots of `map`.

    A chain needs one for each hook; at TC, where an ifindex means something in one namespace only, for each of them.
    `instance` is the first service that needs it.
    """

    name: ProgramName
    instance: ServiceInstance
    hook: Hook
    map: MapName
    span: Span

    @property
    def port(self) -> None:
        """It is no port's."""

    @property
    def maps(self) -> tuple[MapName, ...]:
        return (self.map,)


class TailSlot(Struct, frozen=True):
    """One entry of a prog array: where a link between two virtual ports lands."""

    map: MapName
    index: int
    program: ProgramName
    span: Span


class DeviceSlot(Struct, frozen=True):
    """One entry of a devmap: the device (interface or internal link) behind it, and the egress program before it."""

    map: MapName
    index: int
    device: str
    program: ProgramName | None = None


class InternalLink(Struct, frozen=True):
    """A veth pair by which flooded copies, or frames of a control plane, enter `program`.

    It is made in the namespace of interface `interface`.
    """

    name: str
    hook: Hook
    program: ProgramName
    interface: str


class HostSymbol(Struct, frozen=True):
    """A symbol, and the fact that the loader writes where programs load it."""

    symbol: str
    fact: HostFact
    device: str | None


class Attach(Struct, frozen=True):
    """`program` receives what arrives on `interface`."""

    interface: str
    program: ProgramName


class ChainIR(Struct, frozen=True):
    """A whole chain, ready to be written as C and as a manifest."""

    name: str
    file: str
    sha256: str
    interfaces: tuple[Interface, ...]
    shared: tuple[Interface, ...]
    services: tuple[ServiceInstance, ...]
    ports: tuple[VirtualPort, ...]
    programs: tuple[Program, ...]
    injectors: tuple[Injector, ...]
    maps: tuple[MapDef, ...]
    tail_slots: tuple[TailSlot, ...]
    device_slots: tuple[DeviceSlot, ...]
    internal_links: tuple[InternalLink, ...]
    host_symbols: tuple[HostSymbol, ...]
    attach: tuple[Attach, ...]
    slow_path: SlowPath

    def program(self, name: ProgramName) -> Program:
        return next(program for program in self.programs if program.name == name)
