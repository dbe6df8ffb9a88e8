"""Records of a router's maps, as its programs, its compiler and its control plane know them."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

Address = IPv4Address | IPv6Address


class Reason(IntEnum):
    """Why a packet goes to the control plane: `enum router_reason` in config.h."""

    RESOLVE = 0
    EXPIRED = 1
    NO_ROUTE = 2
    UNREACHABLE = 3
    PROHIBITED = 4
    TOO_BIG = 5
    OPTIONS = 6
    LOCAL = 7
    ARP = 8
    ND = 9
    SCOPE = 10
    REDIRECT = 11
    MLD = 12
    SOLICITED = 13


class Kind(IntEnum):
    """What becomes of a packet that a route matches: `enum nexthop_kind` in nexthop.h."""

    NONE = 0
    CONNECTED = 1  # the destination is a neighbour
    VIA = 2  # the gateway is
    GROUP = 3  # one of several
    BLACKHOLE = 4
    UNREACHABLE = 5
    PROHIBIT = 6


NEXTHOP = struct.Struct("<IIII16s")
"""struct nexthop: kind, port, first, members, gateway."""

FOLLOWED = 1 << 16
"""In an index: a next hop of the kernel's routes, which the control plane writes (NEXTHOP_FOLLOWED in nexthop.h)."""

FOLLOWED_ORDER = 14
"""There are 2^14 places for them."""

FOLLOWED_PLACES = (1 << FOLLOWED_ORDER) - 1
"""Those that can be used: place 0 means no route."""


def group_order(members: int) -> int:
    """The order of the block of a group of next hops, in which it stands itself before its members."""
    return members.bit_length()


def places(ways: int) -> int:
    """Places that so many next hops of one route take; blocks are powers of two, and fit if their sum does."""
    return 1 if ways == 1 else 1 << group_order(ways)


NEIGHBOUR = struct.Struct("<6s2xI")
"""struct neighbour: MAC, when it was used (jiffies)."""

NEIGHBOUR_KEY = {4: struct.Struct("<4sI"), 6: struct.Struct("<16sI")}
"""struct neighbour4_key and neighbour6_key: the address and the port's index."""


NEIGHBOURS_VERSION_SIZE = 8
"""Bytes of the number that changes whenever neighbours have: what programs remember of them then holds no more."""

RECENT_SIZE = {4: 24 << 10, 6: 40 << 9}
"""Bytes of struct recent4_places and recent6_places, what one CPU remembers of neighbours (neighbour.h)."""

REDIRECTED_SIZE = 4 << 10
"""Bytes of struct redirect_places, when one CPU has sent up a copy for whom (redirect.h)."""


class NextHopRecord(Struct, frozen=True):
    """An element of the array of next hops; `gateway` as the map has it, of no IP version by itself."""

    kind: Kind
    port: int = 0
    first: int = 0  # of a group: index of its first member
    members: int = 0
    gateway: bytes = bytes(16)

    def packed(self) -> bytes:
        return NEXTHOP.pack(self.kind, self.port, self.first, self.members, self.gateway.ljust(16, b"\0"))

    @classmethod
    def unpacked(cls, record: bytes | memoryview) -> NextHopRecord:
        kind, *rest = NEXTHOP.unpack(record)
        return cls(Kind(kind), *rest)

    def neighbour(self, destination: Address) -> Address:
        """Whose MAC a packet to `destination` needs."""
        if self.kind is not Kind.VIA:
            return destination
        return IPv4Address(self.gateway[:4]) if destination.version == 4 else IPv6Address(self.gateway)
