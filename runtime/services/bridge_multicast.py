"""IGMP and MLD snooping of a bridge: messages that came up in, the multicast database and queries out.

What is known is in protocols/snooping.py, the maps `mdb` and `mdb_kept_until` say it to the programs, and nobody else
writes them. Programs believe the database for some seconds at a time: while this is away, all multicast is flooded.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

from msgspec import Struct, field

from ..control import Context, OpenMap, Packet, Port
from ..control_maps import ControlMap
from ..protocols import igmp, mld
from ..protocols.ethernet import ETH_P_IP, ETH_P_IPV6, Frame, read_frame
from ..protocols.icmp6 import link_local
from ..protocols.membership import Address, Message
from ..protocols.snooping import Ask, Effect, Network, Notice, Settings, Snooping
from .bridge_mdb import group_key, is_kept, packed, packed_places, rest_key, unpacked
from .bridge_stp import bridge_address

KEPT_SECONDS = 5
"""Programs believe the database for so long after it was last said to be kept, which is once a second."""

_ONLY = bytes(4)
_MOST_HEARD = 1000  # messages and what they tell, each group by itself, of one port in a second
_FORWARDING = 2  # enum port_state
_C_TAG = 0x8100
_ADDRESSES = 12  # bytes of a frame before its first tag
_READERS = {ETH_P_IP: (4, igmp.read), ETH_P_IPV6: (6, mld.read)}


class _Watch(Struct):
    """The snooping of one bridge; port numbers are indices.

    `written` is what the map has of each network, `heard` counts the messages of each port since the last tick, and all
    that they told, `links` are the devices of ports whose link is up, `open` the ports that the spanning tree lets
    forward.
    """

    snooping: Snooping
    config: Mapping[str, Any]
    names: tuple[str, ...]
    mdb: ControlMap
    kept_until: ControlMap
    states: ControlMap | None
    written: dict[Network, dict[bytes, bytes]] = field(default_factory=dict)
    heard: Counter[str] = field(default_factory=Counter)
    links: dict[str, int] = field(default_factory=dict)
    open: frozenset[int] = frozenset()


def start(context: Context) -> None:
    """Knows nothing: until it has been asked and answered who listens to what, all multicast is flooded."""
    snooping = Snooping(_settings(context))
    watch = _Watch(snooping, context.config, tuple(context.ports), *_maps(context))
    watch.links = {name: port.ifindex for name, port in context.ports.items() if _is_up(port)}
    watch.open = _open(watch)
    context.state = watch
    watch.kept_until[_ONLY] = bytes(8)
    watch.mdb.delete_many([key for key, _ in watch.mdb.items()])
    snooping.watch(_networks(context.config), time.monotonic())
    tick(context)


def reload(context: Context) -> None:
    """The same settings and ports go on with the maps of the new generation, which are empty; others start."""
    watch: _Watch = context.state
    same = (watch.config, watch.names) == (context.config, tuple(context.ports))
    if not same or _settings(context) != watch.snooping.settings:
        start(context)
        return
    watch.mdb, watch.kept_until, watch.states = _maps(context)
    watch.written.clear()
    watch.snooping.changed.update(watch.snooping.networks)
    tree_changed(context, moved=False)
    for port in context.ports.values():
        on_link(context, port)
    tick(context)


def on_packets(context: Context, packets: Sequence[Packet]) -> None:
    """Messages of listeners, queriers and routers; broken ones tell nothing (RFC 4541 2.1.1)."""
    watch: _Watch = context.state
    effects: list[Effect] = []
    now = time.monotonic()
    for packet in packets:
        name = packet.port.name
        watch.heard[name] += 1
        if watch.heard[name] > _MOST_HEARD:
            continue
        try:
            version, station, messages = _read(packet.frame)
        except ValueError:
            continue
        watch.heard[name] += len(messages)
        network = Network(packet.note, version)
        effects += watch.snooping.receive(network, packet.port.index, station, messages, now)
    _carry_out(context, effects)


def tick(context: Context) -> None:
    """A second has passed. Programs are told that the database is kept after it has been brought up to date."""
    watch: _Watch = context.state
    for name, count in watch.heard.items():
        if count > _MOST_HEARD:
            context.log.warning("too many IGMP or MLD messages", port=name, in_a_second=count, heard=_MOST_HEARD)
    watch.heard.clear()
    _carry_out(context, watch.snooping.tick(time.monotonic()))
    until_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + KEPT_SECONDS * 10**9
    watch.kept_until[_ONLY] = until_ns.to_bytes(8, "little")


def on_link(context: Context, port: Port) -> None:
    """Nobody is behind a port that is down, or that leads to another device now; who comes is asked."""
    watch: _Watch = context.state
    before, now = watch.links.get(port.name), port.ifindex if _is_up(port) else None
    if before == now:
        return
    watch.links.pop(port.name, None)
    if before is not None:
        watch.snooping.port_down(port.index)
    if now is not None:
        watch.links[port.name] = now
        watch.snooping.port_up(port.index, time.monotonic())
    _carry_out(context, ())


def tree_changed(context: Context, *, moved: bool) -> None:
    """Ports have been opened or closed. `moved`: the tree is another one, so stations may be behind other ports."""
    watch: _Watch = context.state
    now, opened = time.monotonic(), _open(watch)
    effects = watch.snooping.moved(now) if moved else []
    for port in opened - watch.open:
        watch.snooping.port_up(port, now)
    watch.open = opened
    _carry_out(context, effects)


def stop(context: Context) -> None:
    """From now on all multicast is flooded."""
    watch: _Watch = context.state
    watch.kept_until[_ONLY] = bytes(8)


def describe(config: Mapping[str, Any], ports: Sequence[str], open_map: OpenMap) -> dict[str, str]:
    """`multicast router`, where programs know of one."""
    if not is_kept(open_map("mdb_kept_until")[_ONLY]):
        return {}
    routers = {port for key, value in open_map("mdb").items() for port in _routers(key, value)}
    return {ports[index]: "multicast router" for index in routers}


def _routers(key: bytes, value: bytes) -> frozenset[int]:
    entry = unpacked(key, value)
    return entry.reports if entry.group is None else frozenset()


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(context: Context) -> Settings:
    config, ports = context.config, context.ports
    station = bridge_address(context.chain, context.service, ports).to_bytes(6)
    given = {port.index: (port, config["ports"][port.name]) for port in ports.values()}
    sources: dict[int, Address] = {4: IPv4Address(config["address"]), 6: link_local(station)}
    return Settings(
        station=station,
        query_interval_s=config["query_interval"],
        max_response_s=config["max_response"],
        groups=config["groups"],
        flood_unregistered=config["flood_unregistered"],
        sources=sources if config["querier"] else {},
        routers=frozenset(index for index, (port, said) in given.items() if _is_router(port, said["router"])),
        no_routers=frozenset(index for index, (_, said) in given.items() if said["router"] is False),
        fast_leave=frozenset(index for index, (_, said) in given.items() if said["fast_leave"]),
        static=_static(config, ports),
    )


def _is_router(port: Port, said: bool | None) -> bool:
    """What is no interface leads to a stack or a service that may never say what it listens to."""
    return port.device is None if said is None else said


def _static(config: Mapping[str, Any], ports: Mapping[str, Port]) -> dict[Network, dict[Address, frozenset[int]]]:
    found: dict[Network, dict[Address, frozenset[int]]] = {}
    for text, name, vlan in config["static"]:
        group = ip_address(text)
        groups = found.setdefault(Network(vlan, group.version), {})
        groups[group] = groups.get(group, frozenset()) | {ports[name].index}
    return found


def _networks(config: Mapping[str, Any]) -> Iterator[Network]:
    """Both versions of IP in every VLAN."""
    vlans = {vlan for said in config["ports"].values() for vlan in _vlans(said)}
    for vlan in sorted(vlans):
        yield Network(vlan, 4)
        yield Network(vlan, 6)


def _vlans(said: Mapping[str, Any]) -> Iterator[int]:
    if "tagged" not in said:
        yield 0
        return
    if said["untagged"]:
        yield said["untagged"]
    for first, last in said["tagged"]:
        yield from range(first, last + 1)


def _is_up(port: Port) -> bool:
    """What leads to another service has no link that could be down."""
    return port.up or port.device is None


# --- what is known, for programs --------------------------------------------------------------------------------------


def _maps(context: Context) -> tuple[ControlMap, ControlMap, ControlMap | None]:
    states = context.map("states") if context.config["stp"] else None
    return context.map("mdb"), context.map("mdb_kept_until"), states


def _open(watch: _Watch) -> frozenset[int]:
    """The ports that frames may leave by; all of them without a spanning tree."""
    states = watch.states[_ONLY] if watch.states else bytes([_FORWARDING]) * len(watch.names)
    return frozenset(index for index, state in enumerate(states[: len(watch.names)]) if state == _FORWARDING)


def _carry_out(context: Context, effects: Iterable[Effect]) -> None:
    watch: _Watch = context.state
    _write(watch)
    for effect in effects:
        match effect:
            case Notice(network, text, warns):
                log = context.log.warning if warns else context.log.info
                log("multicast", ip=network.version, vlan=network.vlan or None, is_now=text)
            case Ask():
                _send(context, effect)


def _write(watch: _Watch) -> None:
    """At no moment do programs find less than what is known: without the last entry they flood.

    What has gone goes first, in all networks: they share the room that the map has.
    """
    floods: list[bytes] = []
    gone: list[bytes] = []
    new: list[tuple[bytes, bytes]] = []
    for network, wanted in _wanted(watch):
        written = watch.written.setdefault(network, {})
        for key, value in wanted.items():
            if value == written.get(key):
                continue
            if value is None:
                del written[key]
                (floods if key == rest_key(network) else gone).append(key)
            else:
                written[key] = value
                new.append((key, value))
    if floods or gone:
        watch.mdb.delete_many(floods + gone)
    if new:
        watch.mdb.set_many(new)


def _wanted(watch: _Watch) -> Iterator[tuple[Network, dict[bytes, bytes | None]]]:
    """Entries that may be others than those that were written, None: there is to be none. Takes what has changed."""
    snooping, now = watch.snooping, time.monotonic()
    changed, regrouped = snooping.changed, snooping.regrouped
    snooping.changed, snooping.regrouped = set(), set()
    for network in changed:
        table = snooping.table(network, now)
        wanted = dict(packed(network, table)) if table else {}
        yield network, dict.fromkeys(watch.written.get(network, {}).keys() - wanted.keys()) | wanted
    for network, group in regrouped:
        if network not in changed:
            places = snooping.places(network, group)
            yield network, {group_key(network, group): places and packed_places(places)}


# --- frames -----------------------------------------------------------------------------------------------------------


def _read(frame: bytes) -> tuple[int, bytes, tuple[Message, ...]]:
    """Version of IP, who has sent it, and what it tells. Raises ValueError."""
    whole = read_frame(frame)
    if whole.ethertype == _C_TAG:
        whole = read_frame(frame[:_ADDRESSES] + frame[_ADDRESSES + 4 :])
    if whole.ethertype not in _READERS:
        raise ValueError("not IP")
    version, read = _READERS[whole.ethertype]
    return version, whole.source, read(whole.payload)


def _send(context: Context, ask: Ask) -> None:
    """Out of the ports of the VLAN, in the form that it has there; not where the spanning tree forbids it."""
    watch: _Watch = context.state
    build = igmp.query if ask.network.version == 4 else mld.query
    frame = build(watch.snooping.settings.station, ask.query)
    for port in context.ports.values():
        form = _form(watch.config["ports"][port.name], ask.network.vlan, frame)
        asked = ask.ports is None or port.index in ask.ports
        if asked and form and port.peer != "host" and port.index in watch.open:
            context.send(port, form)


def _form(said: Mapping[str, Any], vlan: int, frame: Frame) -> bytes | None:
    """A frame as it leaves by a port; None where the port is no member of the VLAN."""
    if vlan in (said.get("untagged", 0), 0):
        return frame.packed()
    if not any(first <= vlan <= last for first, last in said["tagged"]):
        return None
    tag = vlan.to_bytes(2) + frame.ethertype.to_bytes(2)
    return frame._replace(ethertype=_C_TAG, payload=tag + frame.payload).packed()
