"""The control plane of a router: neighbours, ICMP, and what else takes time or more than one packet.

Programs forward what they can; here comes what they cannot decide (`Reason`). Answers go back into the port that the
packet came in by, so that programs route them (runtime/routing/answers.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from errno import ENOENT
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from schemas.manifest import HostFact
from schemas.services.router import FOLLOWED, NEIGHBOUR, NEIGHBOUR_KEY, Address, Kind, NextHopRecord, Reason

from ..fib import grace_period
from ..protocols import arp, icmp6
from ..protocols.ethernet import ETH_P_IP, ETH_P_IPV6, Frame, read_frame
from ..protocols.internet import read_ipv6
from ..routing.advertising import Advertising
from ..routing.answers import Answers
from ..routing.conflicts import Conflicts, announcement, announcements
from ..routing.followed import Ways, longest
from ..routing.following import Following
from ..routing.kernel_neighbours import KernelNeighbours
from ..routing.limit import ErrorLimit
from ..routing.memberships import Memberships
from ..routing.neighbours import Entry, Held, Key, Neighbours
from ..routing.ports import Outlet, Ports, Route, RouterPort
from ..routing.tables import described, has_tables, open_tables, routes_netns
from ..rtnetlink import Prefix
from ..sys import SyscallFailed
from .router_neighbours import migration as migration

if TYPE_CHECKING:
    from ..control import Context, Packet, Port
    from ..control_maps import ControlMap

TICK_SECONDS = 0.1
HOST = "host"
REPORT = 60.0
"""Seconds between two reports of what has been lost."""

_VERSION_MASK = (1 << 64) - 1

_REASONS = {reason.name.lower().replace("_", "-"): reason for reason in Reason}


class KnownNeighbours(Struct, frozen=True):
    """The neighbours that programs forward to, in their maps by IP version.

    `version` is the memory of one 64-bit number: what a CPU has looked up holds until it changes.
    """

    maps: Mapping[int, ControlMap]
    version: memoryview

    def entries(self) -> Mapping[Key, Entry]:
        found = {}
        for version, entries in self.maps.items():
            for key, value in entries.items():
                address, port = NEIGHBOUR_KEY[version].unpack(key)
                found[Key(port, _address(address))] = _entry(value)
        return found

    def get(self, key: Key) -> Entry | None:
        value = self.maps[key.address.version].get(_packed(key))
        return None if value is None else _entry(value)

    def add(self, key: Key, mac: bytes) -> bool:
        try:
            self.maps[key.address.version].set(_packed(key), NEIGHBOUR.pack(mac, 0))
        except SyscallFailed:  # E2BIG: the map is full
            return False
        self.changed()
        return True

    def take(self, key: Key) -> Entry | None:
        """Reads and deletes in one step: a program cannot use it in between."""
        value = self.maps[key.address.version].take(_packed(key))
        if value is None:
            return None
        self.changed()
        return _entry(value)

    def changed(self) -> None:
        """Only now that the map says it: what a CPU looks up in between is forgotten as well."""
        self.version[0] = self.version[0] + 1 & _VERSION_MASK


def _entry(value: bytes) -> Entry:
    return Entry(*NEIGHBOUR.unpack(value))


def _packed(key: Key) -> bytes:
    return NEIGHBOUR_KEY[key.address.version].pack(key.address.packed, key.port)


def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


class ContextOutlet(Struct, frozen=True):
    """Sends frames by way of the daemon."""

    context: Context
    names: tuple[str, ...]

    def send(self, port: int, frame: bytes) -> None:
        """Nothing is sent to this machine's own stack, which is no link with neighbours."""
        if self.context.ports[self.names[port]].peer != HOST:
            self.context.send(self.names[port], frame)

    def inject(self, port: int, frame: bytes) -> None:
        self.context.inject(self.names[port], frame)


class Router(Struct):
    """One router's control plane."""

    context: Context
    ports: Ports
    outlet: Outlet
    neighbours: Neighbours
    answers: Answers
    conflicts: Conflicts
    memberships: Memberships
    advertising: Advertising
    following: Following | None = None
    lost: tuple[int, int, int] = (0, 0, 0)  # what has been reported
    reported: float = float("-inf")

    def packet(self, packet: Packet, now: float) -> None:
        """One that came up."""
        reason, port, frame = _REASONS[packet.reason], packet.port.index, packet.frame
        match reason:
            case Reason.RESOLVE:
                self._resolve(packet, now)
            case Reason.ARP:
                self._arp(self.ports[port], arp.read_arp(read_frame(frame).payload), now)
            case Reason.ND:
                self._discovery(self.ports[port], frame, now)
            case Reason.LOCAL:
                self.answers.local(port, frame, now)
            case Reason.MLD:
                self.memberships.asked(port, read_frame(frame).payload, now)
            case Reason.SOLICITED:
                self.advertising.solicited(port, frame, now)
            case Reason.OPTIONS:
                self.answers.options(port, frame, now)
            case Reason.REDIRECT:
                self._redirect(packet, now)
            case _:
                self.answers.undeliverable(port, frame, reason, self._way(packet.note), now)

    def _resolve(self, packet: Packet, now: float) -> None:
        way = self._way(packet.note)
        if way is not None:
            neighbour = way.neighbour(_destination(packet.frame))
            held = None if packet.truncated else Held(packet.port.index, packet.frame)
            self.neighbours.resolve(Key(way.port, neighbour), held, now)

    def _redirect(self, packet: Packet, now: float) -> None:
        """A copy of one that has been forwarded; its next hop may have changed since then."""
        way, port = self._way(packet.note), packet.port.index
        if way is not None and way.port == port:
            target = way.neighbour(_destination(packet.frame))
            self.answers.redirect(port, packet.frame, target, self.neighbours.mac(Key(port, target)), now)

    def _way(self, note: int) -> NextHopRecord | None:
        """The next hop that a program noted; None where its place has been given to something else since then."""
        hop = self.ports.nexthop(note) if note else None
        return hop if hop is not None and hop.kind in (Kind.CONNECTED, Kind.VIA) else None

    def _arp(self, port: RouterPort, packet: arp.Arp, now: float) -> None:
        """RFC 826: what is known is kept up to date, what is asked for is answered, what is ours is defended."""
        if port.owns(packet.sender):
            self._defend(port, packet.sender, packet.sender_mac, now)
            return
        self.neighbours.learn(Key(port.index, packet.sender), packet.sender_mac, now)
        if packet.operation == arp.REQUEST and port.owns(packet.target):
            self.outlet.send(port.index, arp.reply(port.mac, packet))

    def _discovery(self, port: RouterPort, frame: bytes, now: float) -> None:
        parsed = read_frame(frame)
        found = icmp6.read_discovery(read_ipv6(parsed.payload))
        claims = (found.source, found.target)[: 1 + (found.type == icmp6.Type.ADVERTISEMENT)]
        if claimed := next(filter(port.owns, claims), None):
            self._defend(port, claimed, parsed.source, now)
        elif found.type == icmp6.Type.ADVERTISEMENT:
            if found.mac is None:
                if found.flags & icmp6.Flag.SOLICITED:
                    self.neighbours.confirm(Key(port.index, found.target), now)
            else:
                override = bool(found.flags & icmp6.Flag.OVERRIDE)
                self.neighbours.learn(Key(port.index, found.target), found.mac, now, override=override)
        elif port.owns(found.target) or port.is_anycast(found.target):
            if found.mac is not None:
                self.neighbours.learn(Key(port.index, found.source), found.mac, now)
            self._advertise(port, found, found.mac or parsed.source)

    def _advertise(self, port: RouterPort, asked: icmp6.Discovery, mac: bytes) -> None:
        """RFC 4861 7.2.4: to the one who asked, or to all if it has no address yet."""
        probe = asked.source == icmp6.UNSPECIFIED
        to = icmp6.ALL_NODES if probe else asked.source
        flags = icmp6.Flag.ROUTER | (0 if probe else icmp6.Flag.SOLICITED)
        source = asked.target
        if port.owns(asked.target):
            flags |= icmp6.Flag.OVERRIDE
        packet = icmp6.advertisement(source, asked.target, port.mac, to, flags)
        frame = Frame(icmp6.group_mac(to) if probe else mac, port.mac, ETH_P_IPV6, packet.packed())
        self.outlet.send(port.index, frame.packed())

    def _defend(self, port: RouterPort, address: Address, mac: bytes, now: float) -> None:
        """Somebody else uses an address of ours: all are told whose it is, not too often (RFC 5227 2.4 c)."""
        if self.conflicts.claimed(port, address, mac, now):
            self.outlet.send(port.index, announcement(port, address))

    def report(self, now: float) -> None:
        """Says how many packets and neighbours have been lost so far, when there are more of them."""
        counts = self.neighbours.counts
        lost = (counts.overflowed, counts.no_room, self.answers.senseless)
        if now - self.reported < REPORT or lost == self.lost:
            return
        self.lost, self.reported = lost, now
        self.context.log.warning("packets-lost", overflowed=lost[0], neighbours_without_room=lost[1], senseless=lost[2])

    def announce(self, ports: Sequence[RouterPort], now: float) -> None:
        """Tells the links of these ports where their addresses are, and asks whether somebody else has them.

        Their groups first: a switch in between then lets questions and answers through.
        """
        for port in ports:
            self.memberships.join(port.index, now)
            self.advertising.begin(port.index, now)
        for index, frame in announcements(ports):
            self.outlet.send(index, frame)
        self.conflicts.probe(ports, now)


def start(context: Context) -> None:
    """Takes up what programs know already, and tells all links where the router's addresses are."""
    now = time.monotonic()
    context.state = _router(context, now)
    context.state.announce(context.state.ports.ports, now)


def reload(context: Context) -> None:
    """A new generation: addresses, ports and maps may be others; what is known of neighbours is in the maps.

    Packets that wait arrive anew where they have come in, so that this generation decides on their way.
    """
    old: Router = context.state
    before = {(port.name, port.mac, port.addresses) for port in old.ports.ports}
    _unfollow(old)
    now = time.monotonic()
    context.state = _router(context, now, old.conflicts)
    advertising: Advertising = context.state.advertising
    advertising.take_over(old.advertising)
    old.advertising.end((old.advertising.names() - advertising.names()) & context.ports.keys())
    ports = context.state.ports.ports
    context.state.announce([port for port in ports if (port.name, port.mac, port.addresses) not in before], now)
    for held in old.neighbours.waiting():
        name = old.ports[held.port].name
        if name in context.ports:
            context.inject(name, held.frame)


def on_link(context: Context, port: Port) -> None:
    """A link that has come up may have other neighbours, who are told whose its addresses are."""
    if port.up:
        context.state.announce([context.state.ports[port.index]], time.monotonic())


def on_packet(context: Context, packet: Packet) -> None:
    """A frame that makes no sense is dropped, and counted: programs let through what they do not look at."""
    try:
        context.state.packet(packet, time.monotonic())
    except ValueError:
        context.state.answers.senseless += 1


def stop(context: Context) -> None:
    """The kernel's routes stay as they are. A router that is gone is no default router any more."""
    router: Router | None = context.state
    if router is None:
        return
    _unfollow(router)
    if _is_gone(context):
        router.advertising.end(router.advertising.names())


def _unfollow(router: Router) -> None:
    if router.following is not None:
        router.following.close()


def _is_gone(context: Context) -> bool:
    """Whether the chain has been taken away. If only the daemon ends, programs forward as before."""
    try:
        context.map("neighbours_version")
    except SyscallFailed as error:
        if error.errno != ENOENT:
            raise
        return True
    return False


def tick(context: Context) -> None:
    """Solicits again, gives up, looks after who is used."""
    now = time.monotonic()
    context.state.neighbours.tick(now)
    context.state.answers.tick(now)
    context.state.conflicts.tick(now)
    context.state.memberships.tick(now)
    context.state.advertising.tick(now)
    context.state.report(now)


def _router(context: Context, now: float, conflicts: Conflicts | None = None) -> Router:
    """What is known of conflicts goes on."""
    way, following = _in_tables(context)
    ports = Ports(
        tuple(_port(context, index, record) for index, record in enumerate(context.config["ports"])),
        tuple(Route(ip_network(route["to"]), route["nexthop"]) for route in context.config["routes"]),
        _nexthops(context),
        way,
    )
    outlet = ContextOutlet(context, tuple(port.name for port in ports.ports))
    rates = context.config["icmp"]
    answers = Answers(ports, outlet, ErrorLimit(rates["rate"], rates["receiver-rate"], now))
    versions = {address.version for port in ports.ports for address in port.addresses}
    known = KnownNeighbours(
        {version: context.map(f"neighbours{version}") for version in sorted(versions)},
        context.map("neighbours_version").memory().cast("Q"),
    )
    known.changed()  # whoever has brought the maps over from another generation does not say so

    def gone(held: Held) -> None:
        answers.unanswered(held.port, held.frame, time.monotonic())

    neighbours = Neighbours(ports, known, outlet, gone, now)
    if following:
        following.follower.on_neighbour = KernelNeighbours(following.followed.ports, ports, neighbours).take
    if conflicts is None:
        conflicts = Conflicts(ports.ports, outlet, context.log, context.problems)
    else:
        conflicts.move(ports.ports, outlet)
    memberships, advertising = Memberships(ports, outlet), Advertising(ports, _advertised(context), outlet)
    return Router(context, ports, outlet, neighbours, answers, conflicts, memberships, advertising, following)


def _advertised(context: Context) -> dict[int, Mapping[str, Any]]:
    """What ports advertise, by their index; manifests from before there was such a thing do not say."""
    told = {index: record.get("advertise") for index, record in enumerate(context.config["ports"])}
    return {index: record for index, record in told.items() if record is not None}


def _nexthops(context: Context) -> Callable[[int], NextHopRecord]:
    """Next hops by the index that a program sends along."""
    described = context.map("nexthops")
    followed = context.map("followed") if has_tables(context.config) else described

    def nexthop(index: int) -> NextHopRecord:
        found = followed if index & FOLLOWED else described
        return NextHopRecord.unpacked(found[(index & FOLLOWED - 1).to_bytes(4, "little")])

    return nexthop


def _nowhere(_destination: Address) -> None:
    """No routes are in tables."""


def _from_file(routes: Mapping[Prefix, Ways]) -> Callable[[Address], NextHopRecord | None]:
    """The way to an address where all routes are the chain file's."""

    def way(destination: Address) -> NextHopRecord | None:
        found = longest(routes, destination)
        return found[0] if found else None

    return way


def _in_tables(context: Context) -> tuple[Callable[[Address], NextHopRecord | None], Following | None]:
    """The way to an address by the routes in tables, and what follows the kernel's there."""
    config = context.config
    if not has_tables(config):
        return _nowhere, None
    if config["kernel_routes"]:
        followed = open_tables(config, context.map, context.netns, grace_period)
        netns, table = routes_netns(config, context.netns), config["kernel_routes"]["table"]
        return followed.way, Following(context, followed, netns, table)
    if not context.map("followed").record.filled:
        for _ in open_tables(config, context.map, context.netns, grace_period).load(()):
            pass  # a chain from before `apply` filled tables
    return _from_file(described(config, context.map)), None


def _port(context: Context, index: int, record: Mapping[str, Any]) -> RouterPort:
    """A port; what the chain file leaves out is its interface's, as programs were told when they were loaded."""
    mac = bytes.fromhex(record["mac"].replace(":", "")) if record["mac"] else _loaded(context, HostFact.MAC, record)
    mtu = record["mtu"] or int.from_bytes(_loaded(context, HostFact.MTU, record), "little")
    return RouterPort(index, record["name"], mac, mtu, tuple(ip_interface(each) for each in record["addresses"]))


def _loaded(context: Context, fact: HostFact, record: Mapping[str, Any]) -> bytes:
    found = context.loaded(fact, record["interface"])
    if found is None:
        raise LookupError(f"programs know no {fact} of `{record['interface']}`")
    return found


def _destination(frame: bytes) -> Address:
    parsed = read_frame(frame)
    at, size = (16, 4) if parsed.ethertype == ETH_P_IP else (24, 16)
    return _address(parsed.payload[at : at + size])
