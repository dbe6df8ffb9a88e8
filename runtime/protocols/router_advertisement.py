"""Router advertisements and solicitations (RFC 4861 4.1, 4.2, RFC 4191, RFC 8106): what is told in, packets out."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

from msgspec import Struct

from .icmp6 import (
    ALL_NODES,
    ND_HOP_LIMIT,
    SOURCE_OPTION,
    UNSPECIFIED,
    Type,
    is_sound,
    mac_option,
    message_packet,
)
from .internet import ICMPV6, Ipv6

_MANAGED, _OTHER_CONFIG = 0x80, 0x40
_PREFERENCES = {"high": 0x08, "medium": 0x00, "low": 0x18}
"""Two bits of the flags (RFC 4191 2.1, 2.2)."""
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_PREFIX_OPTION, _MTU_OPTION, _SERVERS_OPTION, _SEARCH_OPTION = 3, 5, 25, 31
_UNIT = 8  # bytes, in which options are counted
_SOLICITATION_HEADER = 8
_HEADER = struct.Struct("!BBHBBHII")
_PREFIX = struct.Struct("!BBBBIII16s")
_MTU = struct.Struct("!BBHI")
_NAMES = struct.Struct("!BBHI")


class Prefix(Struct, frozen=True):
    """A prefix option (RFC 4861 4.6.2); times in seconds."""

    prefix: IPv6Network
    valid: int
    preferred: int
    on_link: bool = True
    autonomous: bool = True

    def packed(self) -> bytes:
        flags = _ON_LINK * self.on_link | _AUTONOMOUS * self.autonomous
        fixed = (_PREFIX_OPTION, _PREFIX.size // _UNIT, self.prefix.prefixlen, flags)
        return _PREFIX.pack(*fixed, self.valid, self.preferred, 0, self.prefix.network_address.packed)


class Names(Struct, frozen=True):
    """Name servers and domains to search in, for so many seconds (RFC 8106 5)."""

    servers: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    lifetime: int = 0

    def packed(self) -> bytes:
        servers = b"".join(server.packed for server in self.servers)
        search = b"".join(map(_domain, self.search))
        return self._option(_SERVERS_OPTION, servers) + self._option(_SEARCH_OPTION, search)

    def _option(self, kind: int, content: bytes) -> bytes:
        """Nothing where there is nothing to tell; zeroes fill up the last unit."""
        units = 1 + -(-len(content) // _UNIT)
        return (
            _NAMES.pack(kind, units, 0, self.lifetime) + content.ljust((units - 1) * _UNIT, b"\0") if content else b""
        )


def _domain(name: str) -> bytes:
    """A name as DNS has it (RFC 1035 3.1)."""
    labels = name.removesuffix(".").encode("ascii").split(b".")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


class Advertisement(Struct, frozen=True):
    """What a router tells its link; `lifetime`: seconds for which it is a default router, 0: it is none."""

    lifetime: int
    hop_limit: int = 0
    managed: bool = False
    other_config: bool = False
    preference: str = "medium"
    mtu: int | None = None
    prefixes: tuple[Prefix, ...] = ()
    names: Names = Names()

    def packet(self, source: IPv6Address, mac: bytes) -> Ipv6:
        """To all nodes. The preference of what is no default router is medium (RFC 4191 2.2)."""
        preference = _PREFERENCES[self.preference if self.lifetime else "medium"]
        flags = _MANAGED * self.managed | _OTHER_CONFIG * self.other_config | preference
        head = _HEADER.pack(Type.ROUTER_ADVERTISEMENT, 0, 0, self.hop_limit, flags, self.lifetime, 0, 0)
        link = bytes((SOURCE_OPTION, 1)) + mac
        mtu = _MTU.pack(_MTU_OPTION, 1, 0, self.mtu) if self.mtu else b""
        told = head + link + mtu + b"".join(prefix.packed() for prefix in self.prefixes) + self.names.packed()
        return message_packet(source, ALL_NODES, told, ND_HOP_LIMIT)


def check_solicitation(packet: Ipv6) -> None:
    """Raises ValueError for what RFC 4861 6.1.1 has routers discard."""
    message = packet.payload
    if packet.protocol != ICMPV6 or packet.hop_limit != ND_HOP_LIMIT or len(message) < _SOLICITATION_HEADER:
        raise ValueError("not from a neighbour, or cut short")
    if message[0] != Type.ROUTER_SOLICITATION or message[1] != 0 or not is_sound(packet, message):
        raise ValueError("no solicitation, or a wrong checksum")
    mac = mac_option(message[_SOLICITATION_HEADER:], SOURCE_OPTION)
    if mac is not None and packet.source == UNSPECIFIED:
        raise ValueError("from nobody, who tells where he is")
