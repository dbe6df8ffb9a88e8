"""Frames for the ddos service, built byte by byte: what is right, what is cut short, and what contradicts itself."""

from __future__ import annotations

import ipaddress
import random
import struct

ETHERNET = bytes.fromhex("525400000002525400000001")
IPV4, IPV6, ARP, DOT1Q, DOT1AD = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
TCP, UDP, GRE, ICMP, ESP, AH, DCCP, SCTP, UDPLITE = 6, 17, 47, 1, 50, 51, 33, 132, 136
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION, MOBILITY = 0, 43, 44, 59, 60, 135

GOOD4, OTHER4 = "192.0.2.1", "192.0.2.99"
GOOD6, OTHER6 = "2001:db8:1::1", "2001:db8:1::99"


def ethernet(payload: bytes, ethertype: int = IPV4, tags: tuple[int, ...] = ()) -> bytes:
    """A frame; `tags` are the TPIDs of its tags, outermost first."""
    tagged = b"".join(struct.pack("!HH", tpid, 100 + number) for number, tpid in enumerate(tags))
    return ETHERNET + tagged + ethertype.to_bytes(2, "big") + payload


def ports(source: int, destination: int, rest: bytes = bytes(16)) -> bytes:
    """The beginning of every transport header that has ports."""
    return struct.pack("!HH", source, destination) + rest


def ipv4(
    payload: bytes = ports(4000, 80),
    protocol: int = UDP,
    source: str = GOOD4,
    destination: str = OTHER4,
    *,
    options: bytes = b"",
    fragment: int = 0,
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
) -> bytes:
    """An IPv4 packet; `fragment` is the field of flags and offset."""
    words = 5 + len(options) // 4 if ihl is None else ihl
    size = 20 + len(options) + len(payload) if total is None else total
    fixed = struct.pack("!BBHHHBBH", version << 4 | words, 0, size, 1, fragment, 64, protocol, 0)
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    return fixed + addresses + options + payload


def ipv6(
    payload: bytes = ports(4000, 80),
    protocol: int = UDP,
    source: str = GOOD6,
    destination: str = OTHER6,
    *,
    version: int = 6,
    size: int | None = None,
) -> bytes:
    """An IPv6 packet; `protocol` is that of the first header of `payload`."""
    fixed = struct.pack("!IHBB", version << 28, len(payload) if size is None else size, protocol, 64)
    return fixed + ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed + payload


def extension(following: int, payload: bytes, units: int = 0) -> bytes:
    """A hop-by-hop, routing, destination or mobility header of 8 × (1 + units) bytes."""
    return bytes((following, units)) + bytes(6 + 8 * units) + payload


def fragment_header(following: int, payload: bytes, offset: int = 0, more: bool = False) -> bytes:
    """An IPv6 fragment header; `offset` in bytes."""
    return struct.pack("!BBHI", following, 0, offset | more, 7) + payload


def authentication(following: int, payload: bytes, units: int = 4) -> bytes:
    """An authentication header of 4 × (2 + units) bytes."""
    return bytes((following, units)) + bytes(4 * (units + 2) - 2) + payload


def chained(headers: list[int], protocol: int, payload: bytes) -> tuple[int, bytes]:
    """IPv6 extension headers in this order before `protocol`; the first header's number and all of the bytes."""
    for header in reversed(headers):
        if header == FRAGMENT:
            payload = fragment_header(protocol, payload)
        else:
            payload = authentication(protocol, payload) if header == AH else extension(protocol, payload)
        protocol = header
    return protocol, payload


def random_frame(generator: random.Random, addresses4: list[str], addresses6: list[str]) -> bytes:
    """A frame out of everything above, often wrong at some byte or cut off somewhere; at least an Ethernet header."""
    pick = generator.choice
    protocol = pick([TCP, UDP, UDP, SCTP, UDPLITE, DCCP, GRE, ICMP, ESP, 4, generator.randrange(256)])
    segment = ports(pick([53, 4000, 123]), pick([22, 23, 24, 80, 999, 1000, 1500, 2000, 2001, 11211]))
    segment = segment[: pick([20, 20, 20, 8, 4, 3, 0])]
    if generator.random() < 0.5:
        if generator.random() < 0.2:
            protocol, segment = AH, authentication(protocol, segment, pick([0, 1, 4, 9]))
        fragment = pick([0, 0, 0, 0x4000, 0x2000, 0x2001, 1, 185, 0x1FFF])
        options = bytes(4 * pick([0, 0, 0, 1, 10]))
        packet = ipv4(segment, protocol, pick(addresses4), pick(addresses4), options=options, fragment=fragment)
        ethertype = IPV4
    else:
        kinds = [HOP_BY_HOP, ROUTING, DESTINATION, AH, MOBILITY, FRAGMENT]
        headers = [pick(kinds) for _ in range(pick([0, 0, 1, 2, 3, 7, 8, 9]))]
        first, payload = chained(headers, protocol, segment)
        if generator.random() < 0.2:
            first, payload = FRAGMENT, fragment_header(first, payload, pick([0, 8, 1480, 65528]), pick([True, False]))
        packet, ethertype = ipv6(payload, first, pick(addresses6), pick(addresses6)), IPV6
    tags = pick([(), (), (DOT1Q,), (DOT1AD, DOT1Q), (DOT1AD,), (DOT1Q, DOT1Q, DOT1Q)])
    return _damaged(generator, ethernet(packet, ethertype, tags))


def _damaged(generator: random.Random, frame: bytes) -> bytes:
    damage = generator.random()
    if damage < 0.2:
        return frame[: generator.randrange(14, len(frame) + 1)]
    if damage < 0.4:
        changed = bytearray(frame)
        changed[generator.randrange(12, min(len(frame), 90))] = generator.randrange(256)
        return bytes(changed)
    return frame + bytes(generator.choice([0, 0, 6, 18])) if damage < 0.6 else frame
