"""IPv4 and IPv6 packets: bytes in, header fields and payload out, and back (RFC 791, RFC 8200)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct
from msgspec.structs import replace

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
IPV4_HEADER, IPV6_HEADER = 20, 40  # bytes, without options or extension headers
IPV6_LEAST_MTU = 1280

DONT_FRAGMENT = 0x4000  # of the field of flags and offset
MORE_FRAGMENTS, OFFSET = 0x2000, 0x1FFF  # likewise; the offset in units of 8 bytes
_EXTENSIONS = (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT)
_NEXT_HEADER_AT = 6
_FIXED4 = struct.Struct("!BBHHHBBH4s4s")
_FIXED6 = struct.Struct("!IHBB16s16s")
_FRAGMENT_HEADER = struct.Struct("!BxHI")


def checksum(content: bytes) -> int:
    """The Internet checksum (RFC 1071) of `content`, whose own field is zero; 0 if it is in there and right."""
    padded = content + b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Ipv4(Struct, frozen=True):
    """An IPv4 packet; `fragment` is the field of flags and offset, `options` are whole words."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    fragment: int = 0
    options: bytes = b""

    @property
    def dont_fragment(self) -> bool:
        return bool(self.fragment & DONT_FRAGMENT)

    @property
    def is_fragment(self) -> bool:
        """Whether it is a part of a packet only, be it the first one."""
        return bool(self.fragment & (MORE_FRAGMENTS | OFFSET))

    @property
    def is_later_fragment(self) -> bool:
        return bool(self.fragment & OFFSET)

    def packed(self) -> bytes:
        """The bytes with their checksum."""
        words = 5 + len(self.options) // 4
        size = 4 * words + len(self.payload)
        addresses = (self.source.packed, self.destination.packed)
        fields = (64 + words, self.tos, size, self.identification, self.fragment, self.ttl, self.protocol)
        summed = checksum(_FIXED4.pack(*fields, 0, *addresses) + self.options)
        return _FIXED4.pack(*fields, summed, *addresses) + self.options + self.payload

    def cut(self, mtu: int) -> Iterator[Ipv4]:
        """Its fragments, each at most `mtu` bytes long (RFC 791 3.2). Options that are not copied stay in the first."""
        room = (mtu - IPV4_HEADER - len(self.options)) // 8 * 8
        options = self.options
        for at in range(0, len(self.payload), room):
            last = at + room >= len(self.payload)
            offset = (self.fragment & OFFSET) + at // 8
            more = self.fragment & MORE_FRAGMENTS if last else MORE_FRAGMENTS
            yield replace(self, payload=self.payload[at : at + room], fragment=offset | more, options=options)
            options = _copied(self.options)


def _copied(options: bytes) -> bytes:
    """The options that every fragment has: those with the copied flag, the highest bit of their type (RFC 791 3.1)."""
    kept = b"".join(option for option in read_options(options) if option[0] & 0x80)
    return kept + bytes(-len(kept) % 4)


def read_options(options: bytes) -> Iterator[bytes]:
    """IPv4 options one by one, without those that only fill. Raises ValueError with the place of one that is broken."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            raise ValueError(at)
        yield options[at : at + length]
        at += length


def read_ipv4(packet: bytes, *, cut_short: bool = False) -> Ipv4:
    """Raises ValueError for what RFC 1812 5.2.2 has routers discard. `cut_short`: the payload's end may be missing."""
    if len(packet) < IPV4_HEADER:
        raise ValueError("cut short")
    start, tos, total, identification, fragment, ttl, protocol, _, source, destination = _FIXED4.unpack_from(packet)
    header = 4 * (start & 15)
    if start >> 4 != 4 or not IPV4_HEADER <= header <= total or header > len(packet):
        raise ValueError("lengths or version")
    if total > len(packet) and not cut_short:
        raise ValueError("cut short")
    if checksum(packet[:header]) != 0:
        raise ValueError("checksum")
    return Ipv4(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        payload=packet[header:total],
        ttl=ttl,
        tos=tos,
        identification=identification,
        fragment=fragment,
        options=packet[IPV4_HEADER:header],
    )


class Ipv6(Struct, frozen=True):
    """An IPv6 packet; `protocol` is that of the first header behind the fixed one, `start` has class and flow label."""

    source: IPv6Address
    destination: IPv6Address
    protocol: int
    payload: bytes
    hop_limit: int = 64
    start: int = 0

    def packed(self) -> bytes:
        fields = (6 << 28 | self.start, len(self.payload), self.protocol, self.hop_limit)
        return _FIXED6.pack(*fields, self.source.packed, self.destination.packed) + self.payload

    def transport(self) -> tuple[int, bytes, bool]:
        """Behind the extension headers: protocol, payload, and whether it is a later fragment, which has no header."""
        named_at, at, later = self._walk()
        return self._byte(named_at), self.payload[at - IPV6_HEADER :], later

    def named_at(self) -> int:
        """Where in the packet the number of the protocol stands that `transport` gives."""
        return self._walk()[0]

    def fragment_header(self) -> tuple[int, int] | None:
        """Where the number of its fragment header stands, and where that begins; None where it has none."""
        return next((place for place in self._headers() if self._is_fragment_header(*place)), None)

    def extension_headers(self) -> Iterator[tuple[int, int]]:
        """The kind of each and where in the packet it begins, as far as there are 8 bytes of it."""
        for named_at, at in self._headers():
            if self._byte(named_at) in _EXTENSIONS and len(self.payload) >= at - IPV6_HEADER + 8:
                yield self._byte(named_at), at

    def cut(self, mtu: int, identification: int) -> Iterator[Ipv6]:
        """Its fragments as its source makes them (RFC 8200 4.5), each at most `mtu` bytes long.

        For packets without extension headers.
        """
        room = (mtu - IPV6_HEADER - _FRAGMENT_HEADER.size) // 8 * 8
        for at in range(0, len(self.payload), room):
            more = at + room < len(self.payload)
            header = _FRAGMENT_HEADER.pack(self.protocol, at | more, identification)
            yield replace(self, protocol=FRAGMENT, payload=header + self.payload[at : at + room])

    def _byte(self, at: int) -> int:
        return self.protocol if at == _NEXT_HEADER_AT else self.payload[at - IPV6_HEADER]

    def _is_fragment_header(self, named_at: int, at: int) -> bool:
        return self._byte(named_at) == FRAGMENT and len(self.payload) >= at - IPV6_HEADER + _FRAGMENT_HEADER.size

    def _walk(self) -> tuple[int, int, bool]:
        """Behind the extension headers: where the next one's number stands, where it begins, whether it is not here."""
        named_at, at = _NEXT_HEADER_AT, IPV6_HEADER
        for named_at, at in self._headers():
            word = at - IPV6_HEADER + 2
            if self._is_fragment_header(named_at, at) and int.from_bytes(self.payload[word : word + 2], "big") & 0xFFF8:
                return at, at + 8, True
        return named_at, at, False

    def _headers(self) -> Iterator[tuple[int, int]]:
        """Steps over extension headers: where the number of each stands, where it begins. The last is none itself."""
        named_at, at = _NEXT_HEADER_AT, IPV6_HEADER
        yield named_at, at
        while self._byte(named_at) in _EXTENSIONS and len(self.payload) >= at - IPV6_HEADER + 8:
            length = 0 if self._byte(named_at) == FRAGMENT else self.payload[at - IPV6_HEADER + 1]
            named_at, at = at, at + 8 + 8 * length
            yield named_at, at


def read_ipv6(packet: bytes, *, cut_short: bool = False) -> Ipv6:
    """Raises ValueError for what is no whole IPv6 packet. `cut_short`: the payload's end may be missing."""
    if len(packet) < IPV6_HEADER:
        raise ValueError("cut short")
    start, size, protocol, hop_limit, source, destination = _FIXED6.unpack_from(packet)
    if start >> 28 != 6:
        raise ValueError("version")
    if IPV6_HEADER + size > len(packet) and not cut_short:
        raise ValueError("cut short")
    payload = packet[IPV6_HEADER : IPV6_HEADER + size]
    return Ipv6(IPv6Address(source), IPv6Address(destination), protocol, payload, hop_limit, start & 0x0FFFFFFF)


def transport_checksum(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, protocol: int, segment: bytes
) -> int:
    """The checksum that TCP, UDP and ICMPv6 have over a pseudo-header as well (RFC 9293 3.1, RFC 8200 8.1)."""
    lengths = "!II" if source.version == 6 else "!HH"
    order = (len(segment), protocol) if source.version == 6 else (protocol, len(segment))
    return checksum(source.packed + destination.packed + struct.pack(lengths, *order) + segment)
