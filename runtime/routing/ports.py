"""A router's ports as its control plane knows them, and by which of their addresses it speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import NamedTuple, Protocol

from msgspec import Struct

from schemas.services.router import Address, Kind, NextHopRecord

from ..protocols.icmp6 import link_local

Prefix = IPv4Network | IPv6Network


class Route(NamedTuple):
    """A destination prefix and the index of its next hop."""

    prefix: Prefix
    nexthop: int


class Outlet(Protocol):
    """Where the control plane's frames go."""

    def send(self, port: int, frame: bytes) -> None:
        """Out of a port, as it is."""

    def inject(self, port: int, frame: bytes) -> None:
        """Into a port, as if it had arrived there."""


class RouterPort(Struct, frozen=True):
    """A port; `mtu` in bytes of an IP packet."""

    index: int
    name: str
    mac: bytes
    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]

    @property
    def link_local(self) -> IPv6Address:
        return link_local(self.mac)

    def owns(self, address: Address) -> bool:
        """Whether it is the port's own address, its link-local one included."""
        return any(address == own.ip for own in self.addresses) or address == self.link_local

    def is_anycast(self, address: Address) -> bool:
        """Whether it is the subnet-router anycast address of one of the port's subnets (RFC 4291 2.6.1)."""
        return any(
            own.version == 6 and own.network.prefixlen < 127 and address == own.network.network_address
            for own in self.addresses
        )

    def address_for(self, neighbour: Address) -> Address | None:
        """By which of its addresses the port speaks to a neighbour: that of the neighbour's subnet comes first."""
        if isinstance(neighbour, IPv6Address) and neighbour.is_link_local:
            return self.link_local
        own = [address for address in self.addresses if address.version == neighbour.version]
        near = [address for address in own if neighbour in address.network]
        chosen = (near or own)[:1]
        return chosen[0].ip if chosen else None


class Ports(Struct, frozen=True):
    """All ports of a router, and the way that its own packets take."""

    ports: Sequence[RouterPort]
    routes: Sequence[Route]
    nexthop: Callable[[int], NextHopRecord]
    followed: Callable[[Address], NextHopRecord | None] = lambda _destination: None  # by the kernel's routes

    def __getitem__(self, index: int) -> RouterPort:
        return self.ports[index]

    def owner(self, address: Address) -> RouterPort | None:
        """The port that has this address, link-local ones aside."""
        return next((port for port in self.ports if any(address == own.ip for own in port.addresses)), None)

    def source_towards(self, destination: Address, arrived: RouterPort) -> Address | None:
        """The address that an ICMP message to `destination` comes from, about a packet that `arrived` on a port.

        IPv4: one of the port that it leaves by (RFC 1812 4.3.2.4), or where no route leads back, of the other one.
        IPv6: one of the port where the packet arrived, which tells most about its way (RFC 4443 2.2 d).
        """
        if destination.version == 6:
            return arrived.address_for(destination)
        hop = self._way(destination)
        if hop is not None:
            found = self.ports[hop.port].address_for(hop.neighbour(destination))
            if found is not None:
                return found
        return arrived.address_for(destination)

    def mtu_towards(self, destination: Address, arrived: RouterPort) -> int:
        """That of the link that a packet to `destination` leaves by; of the other one where no route leads there."""
        hop = None if destination.is_link_local else self._way(destination)
        return self.ports[hop.port].mtu if hop else arrived.mtu

    def _way(self, destination: Address) -> NextHopRecord | None:
        found = self.followed(destination)
        if found is not None:
            return found if found.kind in (Kind.CONNECTED, Kind.VIA) else None
        matching = [route for route in self.routes if destination in route.prefix]
        best = max(matching, key=lambda route: route.prefix.prefixlen, default=None)
        hop = self.nexthop(best.nexthop) if best else None
        if hop is not None and hop.kind is Kind.GROUP:
            hop = self.nexthop(hop.first)
        return hop if hop is not None and hop.kind in (Kind.CONNECTED, Kind.VIA) else None
