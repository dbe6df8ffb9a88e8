"""Who else has an address of the router: probes for its own out, claims of others in (RFC 5227, RFC 4862 5.4).

The addresses are in use all the while: programs answer for them. What is found out here is told, and the router's claim
repeated. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from schemas.services.router import Address

from ..protocols import arp, icmp6
from ..protocols.ethernet import ETH_P_IPV6, Frame
from .ports import Outlet, RouterPort

if TYPE_CHECKING:
    from ..log import Log

PROBES = 3
"""Probes for an address that is new, or whose link has come up (RFC 5227 1.1, PROBE_NUM)."""
PROBE_PAUSE = 1.0
"""Seconds between two of them (RFC 4861 10, RETRANS_TIMER; RFC 5227 has 1 to 2)."""
DEFENCE = 10.0
"""Seconds between two announcements of an address that somebody else claims (RFC 5227 1.1, DEFEND_INTERVAL)."""
REPROBE = 30.0
"""Seconds between two probes for an address that somebody else has."""
OVER = 3 * REPROBE
"""Seconds without a claim after which nobody else has it any more."""


class Own(NamedTuple):
    """One of the router's addresses, known by the name of its port: indices are others after a reload."""

    port: str
    address: Address


class Probing(Struct):
    """So many probes are still to be sent, the next one when it is `due`."""

    left: int
    due: float


class Claim(Struct):
    """Somebody else has an address: by which MAC, when that was heard last, when it was contradicted last."""

    mac: bytes
    heard: float
    defended: float = float("-inf")


class Conflicts:
    """Watches over the addresses of a router. `problems` is what `status` tells."""

    def __init__(
        self, ports: Iterable[RouterPort], outlet: Outlet, log: Log, problems: MutableMapping[str, str]
    ) -> None:
        self._ports, self._outlet = {port.name: port for port in ports}, outlet
        self._log, self._problems = log, problems
        self._probing: dict[Own, Probing] = {}
        self._claims: dict[Own, Claim] = {}

    def move(self, ports: Iterable[RouterPort], outlet: Outlet) -> None:
        """The router has these ports now: what is known of addresses that it has no more is forgotten."""
        self._outlet = outlet
        self._ports = {port.name: port for port in ports}
        own = {each for port in self._ports.values() for each in _addresses(port)}
        self._probing = {each: probing for each, probing in self._probing.items() if each in own}
        for each in self._claims.keys() - own:
            del self._claims[each], self._problems[_key(each)]

    def probe(self, ports: Iterable[RouterPort], now: float) -> None:
        """Asks the links of these ports whether somebody else has their addresses: at once, and twice more."""
        self._probing |= {each: Probing(PROBES, now) for port in ports for each in _addresses(port)}
        self.tick(now)

    def tick(self, now: float) -> None:
        """Sends what is due, and finds out which conflicts are over."""
        for each, claim in list(self._claims.items()):
            if now - claim.heard >= OVER:
                self._settle(each, claim)
            elif each not in self._probing:
                self._probing[each] = Probing(1, now + REPROBE)
        for each, probing in list(self._probing.items()):
            if now >= probing.due:
                self._send_probe(each, probing, now)

    def claimed(self, port: RouterPort, address: Address, mac: bytes, now: float) -> bool:
        """Somebody with this MAC has said that an address of the port is his. Whether it is time to contradict."""
        if mac == port.mac:
            return False
        each = Own(port.name, address)
        claim = self._claims.get(each)
        if claim is None:
            claim = self._claims[each] = Claim(mac, now)
            self._tell(each, claim)
        claim.heard = now
        if now - claim.defended < DEFENCE:
            return False
        claim.defended = now
        if claim.mac != mac:
            claim.mac = mac
            self._tell(each, claim)
        return True

    def _tell(self, each: Own, claim: Claim) -> None:
        mac = claim.mac.hex(":")
        self._log.warning("address-conflict", address=each.address, port=each.port, mac=mac)
        self._problems[_key(each)] = f"address {each.address} of port {each.port} is also that of {mac}"

    def _settle(self, each: Own, claim: Claim) -> None:
        del self._claims[each], self._problems[_key(each)]
        self._log.info("address-conflict-over", address=each.address, port=each.port, mac=claim.mac.hex(":"))

    def _send_probe(self, each: Own, probing: Probing, now: float) -> None:
        port = self._ports[each.port]
        self._outlet.send(port.index, probe(port, each.address))
        probing.left, probing.due = probing.left - 1, now + PROBE_PAUSE
        if not probing.left:
            del self._probing[each]


def _addresses(port: RouterPort) -> Iterator[Own]:
    """Those of a port, its link-local one included."""
    for own in port.addresses:
        yield Own(port.name, own.ip)
    if any(own.version == 6 for own in port.addresses):
        yield Own(port.name, port.link_local)


def _key(each: Own) -> str:
    return f"conflict {each.port} {each.address}"


def probe(port: RouterPort, address: Address) -> bytes:
    """The frame that asks whether somebody has an address of the port, and tells nobody anything."""
    if isinstance(address, IPv4Address):
        return arp.probe(port.mac, address)
    packet = icmp6.probe(address)
    return Frame(icmp6.group_mac(packet.destination), port.mac, ETH_P_IPV6, packet.packed()).packed()


def announcement(port: RouterPort, address: Address) -> bytes:
    """The frame that tells a link where an address of the port is (RFC 5227 3, RFC 4861 7.2.6)."""
    if isinstance(address, IPv4Address):
        return arp.announcement(port.mac, address)
    flags = icmp6.Flag.ROUTER | icmp6.Flag.OVERRIDE
    packet = icmp6.advertisement(address, address, port.mac, icmp6.ALL_NODES, flags)
    return Frame(icmp6.group_mac(icmp6.ALL_NODES), port.mac, ETH_P_IPV6, packet.packed()).packed()


def announcements(ports: Iterable[RouterPort]) -> Iterator[tuple[int, bytes]]:
    """What tells each link where the router's addresses are: (port, frame). For link-local ones neighbours ask."""
    for port in ports:
        for own in port.addresses:
            yield port.index, announcement(port, own.ip)
