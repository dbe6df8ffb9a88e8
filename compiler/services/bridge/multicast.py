"""What a chain file says of multicast on a bridge in, who listens by the file, who asks, and the maps of it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from schemas.diagnostic import Span
from schemas.manifest import Role, Scope

from ...addresses import Address, parse_address, parse_duration
from ...ir import MapDef
from ...maps import BPF_F_NO_PREALLOC, array, map_name, port_order
from ...model import Port, ServiceInstance
from ...source import Report, Value
from ...words import show
from .ports import named_port
from .vlans import PortVlans, member_vlan

DEFAULT_GROUPS = 1024
_KEY_SIZE, _ENTRY_SIZE = 20, 32  # struct mdb_key, struct mdb_entry
_NEVER_HELD_BACK = IPv4Network("224.0.0.0/24")
_ALL_NODES = IPv6Address("ff02::1")
_IP_VERSIONS = 2
_SECOND = timedelta(seconds=1)


class PortMulticast(Struct, frozen=True):
    """One port. `router` None: to be found out; without `fast_leave` others behind it are asked before it is pruned."""

    router: bool | None = None
    fast_leave: bool = False


class StaticGroup(Struct, frozen=True):
    """A group that a port gets whoever is behind it; `vlan` is 0 without VLANs."""

    group: Address
    port: str
    vlan: int
    span: Span


class Multicast(Struct, frozen=True):
    """Snooping on one bridge; times in seconds. `address`: of its own IPv4 queries, 0.0.0.0 is nobody's."""

    querier: bool
    address: IPv4Address
    query_interval: int
    max_response: int
    groups: int
    flood_unregistered: bool
    static: tuple[StaticGroup, ...]
    ports: Mapping[str, PortMulticast]
    span: Span


def resolve_multicast(
    value: Value, ports: tuple[Port, ...], vlans: Mapping[str, PortVlans], report: Report
) -> Multicast | None:
    """Snooping of a bridge; None where it is off. Reports C113, C214, C420, C421, C440 to C444."""
    given = value.get("multicast")
    port_values = {port.name: value.get("ports", port.name, "multicast") for port in ports}
    if given is None:
        for each in port_values.values():
            if each is not None:
                message, label = "multicast of a port, but none of its bridge", "means nothing without the bridge's"
                advice = "write `multicast: {}` at the bridge as well"
                report.error("C443", message, each.key_span, label=label, help=advice)
        return None
    found = Multicast(
        querier=_data(given, "querier", False),
        address=_querier_address(given, report),
        query_interval=_seconds(given, "query-interval", 125, report),
        max_response=_seconds(given, "max-response", 10, report),
        groups=_data(given, "groups", DEFAULT_GROUPS),
        flood_unregistered=_data(given, "unregistered", "routers") == "flood",
        static=_static(given, ports, vlans, report),
        ports={name: _port(each) if each else PortMulticast() for name, each in port_values.items()},
        span=given.key_span,
    )
    _check_times(found, given, report)
    return found if _data(given, "snooping", True) else None


def _port(value: Value) -> PortMulticast:
    router = _data(value, "router", "auto")
    return PortMulticast(None if router == "auto" else router, _data(value, "fast-leave", False))


def _data(value: Value, key: str, default: Any) -> Any:
    found = value.get(key)
    return default if found is None else found.data


def _querier_address(value: Value, report: Report) -> IPv4Address:
    given = value.get("querier-address")
    address = parse_address(given, report) if given is not None else None
    if isinstance(address, IPv4Address) and not address.is_multicast:
        return address
    if given is not None and address is not None:
        message, label = f"{show(str(address))} is no address that a querier can have", "an IPv4 address of one host"
        notes = ("MLD queries come from a link-local address that is made of the bridge's MAC address",)
        report.error("C441", message, given.span, label=label, notes=notes)
    return IPv4Address(0)


def _seconds(value: Value, key: str, default: int, report: Report) -> int:
    found = value.get(key)
    if found is None:
        return default
    time = parse_duration(found, report, least=_SECOND, most=timedelta(hours=1))
    return default if time is None else max(1, round(time / _SECOND))


def _check_times(found: Multicast, given: Value, report: Report) -> None:
    """RFC 3376 8.3, RFC 3810 9.3: who is asked has answered before the next question."""
    if found.max_response >= found.query_interval:
        late = given.get("max-response") or given.get("query-interval")
        assert late is not None, "the defaults are in order"
        message = f"answers may take {found.max_response}s, and the next query comes after {found.query_interval}s"
        report.error("C442", message, late.span, label="`max-response` is less than `query-interval`")


# --- static groups ----------------------------------------------------------------------------------------------------


def _static(
    value: Value, ports: tuple[Port, ...], vlans: Mapping[str, PortVlans], report: Report
) -> tuple[StaticGroup, ...]:
    listed = value.get("static")
    found: dict[tuple[Address, str, int], StaticGroup] = {}
    for item in listed.elements() if listed else ():
        entry = _static_group(item, ports, vlans, report)
        if entry is None:
            continue
        key = entry.group, entry.port, entry.vlan
        if key in found:
            report.twice("C444", f"`{entry.port}` is given `{entry.group}` twice", entry.span, found[key].span)
        found.setdefault(key, entry)
    return tuple(found.values())


def _static_group(
    item: Value, ports: tuple[Port, ...], vlans: Mapping[str, PortVlans], report: Report
) -> StaticGroup | None:
    group_value, port_value = item.get("group"), item.get("port")
    assert group_value, "the schema requires it"
    assert port_value, "the schema requires it"
    group = parse_address(group_value, report)
    if group is not None and not is_held_back(group):
        message = f"{show(str(group))} is no group that snooping holds back"
        label = "flooded in any case" if group.is_multicast else "the address of a host, not of a group"
        notes = (f"never held back: {_NEVER_HELD_BACK}, {_ALL_NODES}",)
        report.error("C440", message, group_value.span, label=label, notes=notes)
        group = None
    port = named_port(port_value, ports, "static group for", report)
    vlan = member_vlan(item, port, vlans, report)
    return (
        None if group is None or port is None or vlan is None else StaticGroup(group, port.name, vlan, group_value.span)
    )


def is_held_back(group: Address) -> bool:
    """Whether packets to an address may be kept from ports (multicast.h, snoop())."""
    return group.is_multicast and group not in _NEVER_HELD_BACK and group != _ALL_NODES


# --- for programs and control plane -----------------------------------------------------------------------------------


def control(multicast: Multicast, vlans: Mapping[str, PortVlans], *, stp: bool) -> dict[str, object]:
    """What the control plane needs to know (runtime/services/bridge_multicast.py); `stp`: ports have states."""
    ports = {
        name: asdict(port)
        | ({"untagged": vlans[name].untagged, "tagged": [list(span) for span in vlans[name].tagged]} if vlans else {})
        for name, port in multicast.ports.items()
    }
    return {
        "querier": multicast.querier,
        "address": str(multicast.address),
        "query_interval": multicast.query_interval,
        "max_response": multicast.max_response,
        "groups": multicast.groups,
        "flood_unregistered": multicast.flood_unregistered,
        "static": [[str(entry.group), entry.port, entry.vlan] for entry in multicast.static],
        "stp": stp,
        "ports": ports,
    }


def multicast_maps(
    instance: ServiceInstance, multicast: Multicast | None, vlans: Mapping[str, PortVlans]
) -> Iterator[MapDef]:
    """Filled by the control plane, for each generation anew: until then all multicast is flooded."""
    if multicast is None:
        return
    yield MapDef(
        name=map_name(instance.name, "mdb"),
        type="BPF_MAP_TYPE_HASH",
        key_type="struct mdb_key",
        key_size=_KEY_SIZE,
        value_type="struct mdb_entry",
        value_size=_ENTRY_SIZE,
        max_entries=multicast.groups + len(multicast.static) + _IP_VERSIONS * _count(vlans),
        scope=Scope.SERVICE,
        role=Role.SCRATCH,
        layout=f"bridge mdb/1 {port_order(instance)}",
        span=multicast.span,
        flags=BPF_F_NO_PREALLOC,
        field="mdb",
        service=instance.name,
    )
    yield array(
        instance,
        "mdb_kept_until",
        "__u64",
        8,
        role=Role.SCRATCH,
        layout="ns/1",
        span=multicast.span,
        field="mdb_kept_until",
    )


def _count(vlans: Mapping[str, PortVlans]) -> int:
    """How many VLANs a bridge has; without any it is one network."""
    members = {port.pvid for port in vlans.values()}
    members.update(vlan for port in vlans.values() for first, last in port.tagged for vlan in range(first, last + 1))
    return len(members - {0}) or 1
