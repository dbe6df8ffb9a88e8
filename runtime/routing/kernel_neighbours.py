"""Neighbours that the kernel knows on the ports' devices → a router's own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

from schemas.services.router import Address

from ..rtnetlink import NUD_DELAY, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE, NeighbourChange
from .neighbours import Key, Neighbours
from .ports import Ports

_USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE
_ADDRESSES: dict[int, type[IPv4Address | IPv6Address]] = {4: IPv4Address, 16: IPv6Address}
_MAC_SIZE = 6


class KernelNeighbours(Struct, frozen=True):
    """Takes over what the kernel tells; `by_ifindex` are the ports by the devices that it knows them by.

    What has been set there for good holds here too, and as long. Of the others the router makes sure itself: it takes
    them where it knows nothing, and whether the kernel forgets them again is nothing to it.
    """

    by_ifindex: Mapping[int, int]
    ports: Ports
    neighbours: Neighbours

    def take(self, change: NeighbourChange) -> None:
        key = self._key(change)
        if key is None:
            return
        is_station = len(change.mac) == _MAC_SIZE and any(change.mac) and not change.mac[0] & 1
        state = change.state if is_station and not change.gone else 0
        if state & NUD_PERMANENT:
            self.neighbours.fix(key, change.mac, time.monotonic())
            return
        self.neighbours.unfix(key)
        if state & _USABLE:
            self.neighbours.offer(key, change.mac, time.monotonic())

    def _key(self, change: NeighbourChange) -> Key | None:
        """None for what is no neighbour of the router: another device, a group, an address of its own."""
        index, made = self.by_ifindex.get(change.ifindex), _ADDRESSES.get(len(change.address))
        if index is None or made is None:
            return None
        address: Address = made(change.address)
        port = self.ports[index]
        speaks = any(own.version == address.version for own in port.addresses)
        if not speaks or address.is_multicast or address.is_unspecified or port.owns(address):
            return None
        return Key(index, address)
