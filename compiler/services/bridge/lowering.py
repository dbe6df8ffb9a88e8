"""A bridge's model → the program of one port: its constants, the filtering database, static entries as code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.manifest import Hook, HostFact, Role

from ...bucket import Bucket
from ...ir import Constant, GeneratedFunction, HostBound, Inlined, LoadTime, LoweredPort, MapDef
from ...lower import port_name
from ...maps import BPF_F_MMAPABLE, array, port_order
from ...model import Port, ServiceInstance
from ...templates import Rendering
from . import multicast, stp
from .fdb import MAC_BITS, SET_SIZE, Fdb
from .learning_lowering import TEMPLATES, learning_constants, learning_functions, learning_maps, static_constant
from .model import BridgeModel
from .storm import SORTS

PORT_STATES_SIZE = 264  # struct port_states
_HZ = HostBound("hz", HostFact.HZ, None)


def lower(instance: ServiceInstance, port: Port, hook: Hook) -> LoweredPort:
    """The same for every hook: 802.1D does not know where frames come from."""
    model = instance.config
    assert isinstance(model, BridgeModel)
    return LoweredPort(
        constants=(
            *_constants(instance, port, model),
            *_vlan_constants(port, model),
            *_stp_constants(instance, port, model),
            *_storm_constants(port, model),
            *learning_constants(instance, port, model),
            *(static_constant(instance, entry, Inlined("", entry.text)) for entry in model.inlined),
        ),
        maps=(
            _fdb(instance, model),
            *_states(instance, model),
            *_storm_buckets(instance, port, model),
            *learning_maps(instance, port, model),
            *multicast.multicast_maps(instance, model.multicast, model.vlans),
        ),
        functions=tuple(_functions(instance, port, model)),
        transmits=bool(model.vlans or model.stp or model.multicast),
    )


def control(instance: ServiceInstance) -> dict[str, object] | None:
    """What the bridge's control plane has to know; None where nothing needs one."""
    model = instance.config
    assert isinstance(model, BridgeModel)
    parts: dict[str, object] = {}
    if model.stp:
        parts["stp"] = stp.control(model.stp)
    if model.multicast:
        parts["multicast"] = multicast.control(model.multicast, model.vlans, stp=model.stp is not None)
    return parts or None


def reasons_of(instance: ServiceInstance) -> frozenset[str]:
    """Each part of the control plane hears its own messages."""
    model = instance.config
    assert isinstance(model, BridgeModel)
    reasons = {"bpdu": model.stp, "multicast": model.multicast}
    return frozenset(reason for reason, part in reasons.items() if part)


def _constants(instance: ServiceInstance, port: Port, model: BridgeModel) -> tuple[Constant, ...]:
    geometry, fdb = _geometry(instance, model), f"{instance.name}.fdb"
    seconds = geometry.aging_s
    return (
        Constant(str(port), port.name, "the port that frames come from", Inlined("port", str(port.index)), port.span),
        Constant(f"{fdb}.aging", f"{seconds}s", "forget after", LoadTime("aging_s", seconds), model.aging_span),
        Constant(
            f"{fdb}.size",
            str(model.size),
            "logarithm of the number of sets, for a size of",
            Inlined("set_bits", str(geometry.set_bits)),
            model.size_span,
        ),
        _bits(f"{fdb}.key", geometry.key_bits, "bits of a station's address and VLAN", "key_bits", instance),
        _bits(f"{fdb}.port", geometry.port_bits, "bits for a port in an entry", "port_bits", instance),
        Constant(
            f"{fdb}.tick",
            str(geometry.tick_bits),
            "logarithm of a tick in jiffies at 100 Hz",
            Inlined("tick_bits", str(geometry.tick_bits)),
            model.aging_span,
        ),
        Constant(f"{instance.name}.hz", "the host's", "jiffies a second", _HZ, instance.span),
    )


def _vlan_constants(port: Port, model: BridgeModel) -> Iterator[Constant]:
    """What this port admits, and as part of the generated function what leaves by each port."""
    if not model.vlans:
        return
    own, path = model.vlans[port.name], f"{port}.vlan"
    fields = (
        ("vlan_aware", 1, "frames belong to VLANs"),
        ("admit_tagged", int(not own.access), "admits untagged frames only" if own.access else "admits tagged frames"),
        ("pvid", own.pvid, "VLAN of untagged frames"),
    )
    for field, value, meaning in fields:
        yield Constant(path, own.text, meaning, Inlined(field, str(value)), own.span)
    for name, vlans in model.vlans.items():
        if name != port.name:
            path = f"{port.service}.{name}.vlan"
            yield Constant(path, vlans.text, "VLANs of another port", Inlined("", vlans.text), vlans.span)


def _stp_constants(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[Constant]:
    """Of the port itself, but that no BPDU leaves by another one that filters them."""
    if not model.stp:
        return
    ports = model.stp.ports
    given = ports[port.name]
    filters = [each for each in instance.ports if ports[each.name].bpdu_filter]
    if filters:
        path, names = f"{instance.name}.stp.bpdu-filter", " ".join(each.name for each in filters)
        home = Inlined("bpdu_filters", _port_set(filters))
        yield Constant(path, names, "ports that no BPDU comes in or leaves by", home, filters[0].span)
    if given.bpdu_guard:
        yield Constant(f"{port}.stp.bpdu-guard", "true", "BPDUs shut the port", Inlined("bpdu_guard", "1"), port.span)
    if given.root_guard:
        home = Inlined("root_guard", "1")
        yield Constant(f"{port}.stp.root-guard", "true", "BPDUs are never passed on", home, port.span)


def _port_set(ports: Iterable[Port]) -> str:
    """struct port_set."""
    bits = sum(1 << port.index for port in ports)
    return f"{{{{{bits % (1 << 64):#x}ULL, {bits >> 64:#x}ULL}}}}"


def _states(instance: ServiceInstance, model: BridgeModel) -> Iterator[MapDef]:
    """The states of all ports: written by the control plane, and kept when the chain is changed."""
    if model.stp:
        yield array(
            instance,
            "states",
            "struct port_states",
            PORT_STATES_SIZE,
            role=Role.STATE,
            layout=f"bridge states/2 {port_order(instance)}",
            span=model.stp.span,
            field="states",
        )


def _storm_constants(port: Port, model: BridgeModel) -> Iterator[Constant]:
    for sort, limit in model.storms.get(port.name, {}).items():
        path = f"{port}.storm.{sort}"
        bucket = Bucket(path, limit.rate, f"{path}.burst", limit.burst, limit.span)
        yield from bucket.constants(f"storm_{sort}", coarse=True)


def _storm_buckets(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[MapDef]:
    """A bucket for each port and sort; only for programs that have a limit."""
    if port.name not in model.storms:
        return
    first = next(limit for limits in model.storms.values() for limit in limits.values())
    yield array(
        instance,
        "storm",
        "__u64",
        8,
        len(instance.ports) * len(SORTS),
        role=Role.SCRATCH,
        layout="buckets/1",
        span=first.span,
        field="storm",
    )


def _bits(path: str, bits: int, meaning: str, field: str, instance: ServiceInstance) -> Constant:
    return Constant(path, str(bits), meaning, Inlined(field, str(bits)), instance.span)


def _geometry(instance: ServiceInstance, model: BridgeModel) -> Fdb:
    vlan_bits = max((vlans.highest for vlans in model.vlans.values()), default=0).bit_length()
    return Fdb(model.size, len(instance.ports), int(model.aging.total_seconds()), MAC_BITS + vlan_bits)


def _fdb(instance: ServiceInstance, model: BridgeModel) -> MapDef:
    geometry = _geometry(instance, model)
    return array(
        instance,
        "fdb",
        "struct fdb_set",
        SET_SIZE,
        1 << geometry.set_bits,
        role=Role.STATE,
        layout=f"bridge {geometry.layout} {port_order(instance)}",
        span=model.size_span,
        flags=BPF_F_MMAPABLE,
        field="fdb",
    )


def _functions(instance: ServiceInstance, port: Port, model: BridgeModel) -> Iterator[GeneratedFunction]:
    if model.inlined:
        name = f"{port_name(port)}__static"
        rendering = Rendering(TEMPLATES, "static.c.j2", {"name": name, "entries": model.inlined})
        yield GeneratedFunction("static_port", name, rendering, model.inlined[0].span)
    yield from learning_functions(instance, port, model)
    if model.vlans:
        name = f"{port_name(port)}__vlan_egress"
        members = [(other, model.vlans[other.name]) for other in instance.ports]
        rendering = Rendering(TEMPLATES, "vlan_egress.c.j2", {"name": name, "members": members})
        yield GeneratedFunction("vlan_egress", name, rendering, model.vlans[port.name].span)
