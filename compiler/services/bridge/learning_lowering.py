"""Who may be learned where, and static stations that are no code → constants, maps and functions of one port."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from schemas.diagnostic import Span
from schemas.manifest import Role, Scope

from ...addresses import show_duration
from ...bucket import TIME_SHIFT, Bucket
from ...ir import Constant, GeneratedFunction, Inlined, InMap, LoadTime, MapDef
from ...lower import port_name
from ...maps import BPF_F_MMAPABLE, array, map_name, port_order, with_headroom
from ...model import Port, ServiceInstance
from ...templates import Rendering
from .learning import Moves
from .model import BridgeModel, StaticEntry

TEMPLATES = Path(__file__).parent / "templates"
MOVERS = 256  # and one element for the whole bridge (moves.h)
MOVER_SIZE = 48  # struct mover
QUOTA_SIZE = 24  # struct quota
NS_PER_MICROSECOND = 1000


def learning_constants(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[Constant]:
    """Nothing for what the file does not ask for."""
    learning, fdb = model.learning, f"{instance.name}.fdb"
    if learning.drop_intruders:
        home = Inlined("drop_intruders", "true")
        yield Constant(f"{fdb}.intruders", "drop", "frames of intruders", home, learning.intruders_span)
    for name, stations in learning.sticky.items():
        path = f"{instance.name}.{name}.stations.sticky"
        yield Constant(path, "true", "stations stay", Inlined("", name), stations.sticky_span)
    if learning.moves:
        yield from _moves(f"{fdb}.moves", learning.moves)
    own = learning.limits.get(port.name)
    if own:
        path, limit = f"{port}.stations.limit", LoadTime("station_limit", own.limit)
        yield Constant(path, str(own.limit), "stations that are learned", limit, own.limit_span)
        if own.drop_beyond:
            home = Inlined("drop_beyond", "true")
            yield Constant(f"{port}.stations.beyond", "drop", "frames of further ones", home, own.limit_span)


def learning_maps(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[MapDef]:
    """Those who move, the numbers of stations by port, static stations; each only where there are such."""
    if model.learning.moves:
        yield _array(instance, "movers", "struct mover", MOVER_SIZE, MOVERS + 1, model.learning.moves.span)
    own = model.learning.limits.get(port.name)
    if own:
        first = next(iter(model.learning.limits.values()))
        yield _array(instance, "quotas", "struct quota", QUOTA_SIZE, len(instance.ports), first.limit_span)
    if model.mapped:
        yield _statics(instance, model)


def learning_functions(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[GeneratedFunction]:
    """Whether the stations of a port stay where they are; and counting those of this one, where it has a limit."""
    sticky, own = model.learning.sticky, model.learning.limits.get(port.name)
    if sticky:
        name, ports = f"{port_name(port)}__sticky", [each for each in instance.ports if each.name in sticky]
        rendering = Rendering(TEMPLATES, "sticky.c.j2", {"name": name, "ports": ports})
        yield GeneratedFunction("sticky", name, rendering, next(iter(sticky.values())).sticky_span)
    if own:
        name, table = f"{port_name(port)}__count_set", map_name(instance.name, "fdb")
        rendering = Rendering(TEMPLATES, "count_set.c.j2", {"name": name, "map": table})
        yield GeneratedFunction("count_set", name, rendering, own.limit_span)


def static_constant(instance: ServiceInstance, entry: StaticEntry, home: Inlined | InMap) -> Constant:
    """A static entry, in code or in the map."""
    return Constant(f"{instance.name}.fdb.static {entry.text}", entry.port.name, "static entry", home, entry.span)


def _moves(path: str, moves: Moves) -> Iterator[Constant]:
    station, bridge = f"{path}.station", f"{path}.bridge"
    limit = Bucket(station, moves.station, f"{station}.burst", moves.station, moves.span)
    yield from limit.constants("moves.station", coarse=True)
    if moves.bridge:
        of_all = Bucket(bridge, moves.bridge, f"{bridge}.burst", moves.bridge, moves.span)
        yield from of_all.constants("moves.bridge", coarse=True)
    hold = LoadTime("moves.hold", moves.hold // timedelta(microseconds=1) * NS_PER_MICROSECOND << TIME_SHIFT)
    yield Constant(f"{path}.hold", show_duration(moves.hold), "1/16 ns that a station stays", hold, moves.span)


def _array(instance: ServiceInstance, name: str, struct: str, size: int, entries: int, span: Span) -> MapDef:
    layout, flags = f"bridge {name}/1", BPF_F_MMAPABLE
    return array(
        instance, name, struct, size, entries, role=Role.SCRATCH, layout=layout, span=span, flags=flags, field=name
    )


def _statics(instance: ServiceInstance, model: BridgeModel) -> MapDef:
    name = map_name(instance.name, "statics")
    return MapDef(
        name=name,
        type="BPF_MAP_TYPE_HASH",
        key_type="__u64",
        key_size=8,
        value_type="__u32",
        value_size=4,
        max_entries=with_headroom(len(model.mapped)),
        scope=Scope.SERVICE,
        role=Role.CONFIG,
        layout=f"bridge statics/1 {port_order(instance)}",
        span=model.mapped[0].span,
        field="statics",
        service=instance.name,
        entries=tuple(
            static_constant(instance, entry, InMap(name, entry.key.to_bytes(8, "little"), _index(entry.port)))
            for entry in model.mapped
        ),
    )


def _index(port: Port) -> bytes:
    return port.index.to_bytes(4, "little")
