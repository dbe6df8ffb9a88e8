"""ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861): messages in, errors, answers and solicitations out."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from .internet import ICMPV6, IPV6_HEADER, IPV6_LEAST_MTU, Ipv6, transport_checksum


class Type(IntEnum):
    """The types that a router sends or must tell apart; below INFORMATIONAL are errors."""

    UNREACHABLE = 1
    TOO_BIG = 2
    EXPIRED = 3
    PARAMETER_PROBLEM = 4
    INFORMATIONAL = 128
    ECHO_REPLY = 129
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    SOLICITATION = 135
    ADVERTISEMENT = 136
    REDIRECT = 137


ECHO_REQUEST = Type.INFORMATIONAL


class Unreachable(IntEnum):
    """Codes of UNREACHABLE (RFC 4443 3.1)."""

    NO_ROUTE = 0
    PROHIBITED = 1
    SCOPE = 2
    ADDRESS = 3
    PORT = 4
    REJECTED = 6


class Flag(IntEnum):
    """Flags of an advertisement (RFC 4861 4.4)."""

    ROUTER = 0x80
    SOLICITED = 0x40
    OVERRIDE = 0x20


ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")
UNSPECIFIED = IPv6Address("::")
ND_HOP_LIMIT = 255
REASSEMBLY = 1  # code of EXPIRED: fragments have not become a whole packet in time
UNRECOGNIZED_OPTION, UNRECOGNIZED_HEADER = 2, 1  # codes of PARAMETER_PROBLEM
SOURCE_OPTION, _TARGET_OPTION, _REDIRECTED_OPTION = 1, 2, 4
_HEADER, _MESSAGE = 8, 24  # bytes of an error before its quote, of a solicitation before its options
_SOLICITED_NODES = IPv6Network("ff02::1:ff00:0/104")


def may_be_told(packet: Ipv6, kind: Type = Type.UNREACHABLE) -> bool:
    """Whether there may be an error about it (RFC 4443 2.4 e), as far as the packet itself tells."""
    protocol, payload, later = packet.transport()
    if packet.source.is_multicast or packet.source == UNSPECIFIED:
        return False
    if later:  # of what is no ICMP, that it cannot be a fragment (RFC 8200 4.5)
        return kind is Type.PARAMETER_PROBLEM and protocol != ICMPV6
    if packet.destination.is_multicast and kind not in (Type.TOO_BIG, Type.PARAMETER_PROBLEM):
        return False
    if protocol != ICMPV6 or not payload:
        return True
    return payload[0] >= Type.INFORMATIONAL and payload[0] != Type.REDIRECT


def error(about: bytes, source: IPv6Address, kind: Type, code: int = 0, detail: int = 0, hop_limit: int = 64) -> Ipv6:
    """The error that quotes packet `about`, as much as makes it no longer than the least MTU (RFC 4443 2.4 c)."""
    sender = IPv6Address(about[8:24])
    size = IPV6_HEADER + int.from_bytes(about[4:6], "big")
    quoted = about[: min(size, IPV6_LEAST_MTU - IPV6_HEADER - _HEADER)]
    message = bytes((kind, code, 0, 0)) + detail.to_bytes(4, "big") + quoted
    return message_packet(source, sender, message, hop_limit)


def echo_reply(request: Ipv6, source: IPv6Address, hop_limit: int = 64) -> Ipv6 | None:
    """The answer to an echo request (RFC 4443 4.2); None for what is none, or has a wrong checksum."""
    protocol, message, later = request.transport()
    if protocol != ICMPV6 or later or len(message) < _HEADER or message[0] != ECHO_REQUEST:
        return None
    if not is_sound(request, message):
        return None
    return message_packet(source, request.source, bytes((Type.ECHO_REPLY, 0, 0, 0)) + message[4:], hop_limit)


class Discovery(NamedTuple):
    """A solicitation or an advertisement; `mac` is that of its option, None where it has none."""

    type: int
    source: IPv6Address
    destination: IPv6Address
    target: IPv6Address
    flags: int
    mac: bytes | None


def read_discovery(packet: Ipv6) -> Discovery:
    """Raises ValueError for what RFC 4861 7.1 has nodes discard, and for other messages."""
    message = packet.payload
    if packet.protocol != ICMPV6 or packet.hop_limit != ND_HOP_LIMIT or len(message) < _MESSAGE:
        raise ValueError("not from a neighbour, or cut short")
    kind, target = message[0], IPv6Address(message[8:24])
    if kind not in (Type.SOLICITATION, Type.ADVERTISEMENT) or message[1] != 0 or target.is_multicast:
        raise ValueError("neither solicitation nor advertisement")
    if not is_sound(packet, message):
        raise ValueError("checksum")
    mac = mac_option(message[_MESSAGE:], SOURCE_OPTION if kind == Type.SOLICITATION else _TARGET_OPTION)
    probe = kind == Type.SOLICITATION and packet.source == UNSPECIFIED
    if probe and (mac is not None or packet.destination not in _SOLICITED_NODES):
        raise ValueError("a probe that tells who sends it")
    if kind == Type.ADVERTISEMENT and packet.destination.is_multicast and message[4] & Flag.SOLICITED:
        raise ValueError("an answer to everybody")
    return Discovery(kind, packet.source, packet.destination, target, message[4], mac)


def mac_option(options: bytes, wanted: int) -> bytes | None:
    """The MAC in the option of this type, None where there is none. Raises ValueError for options that are broken."""
    mac = None
    while options:
        length = 8 * options[1] if len(options) > 1 else 0
        if not 0 < length <= len(options):
            raise ValueError("an option of no length")
        if options[0] == wanted and length == 8:
            mac = options[2:8]
        options = options[length:]
    return mac


def solicitation(source: IPv6Address, target: IPv6Address, mac: bytes, to: IPv6Address | None = None) -> Ipv6:
    """Asks all who may have `target` for its MAC, or the one at `to` whether it has it still (RFC 4861 7.2.2)."""
    message = bytes((Type.SOLICITATION, 0, 0, 0)) + bytes(4) + target.packed + bytes((SOURCE_OPTION, 1)) + mac
    return message_packet(source, to or solicited_node(target), message, ND_HOP_LIMIT)


def probe(target: IPv6Address) -> Ipv6:
    """Asks whether anybody has `target`; whoever has it tells all (RFC 4862 5.4.2)."""
    message = bytes((Type.SOLICITATION, 0, 0, 0)) + bytes(4) + target.packed
    return message_packet(UNSPECIFIED, solicited_node(target), message, ND_HOP_LIMIT)


def advertisement(source: IPv6Address, target: IPv6Address, mac: bytes, to: IPv6Address, flags: int) -> Ipv6:
    """Tells where `target` is (RFC 4861 7.2.4)."""
    start = bytes((Type.ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0))
    return message_packet(source, to, start + target.packed + bytes((_TARGET_OPTION, 1)) + mac, ND_HOP_LIMIT)


def redirect(about: bytes, source: IPv6Address, target: IPv6Address, mac: bytes | None) -> Ipv6:
    """Tells the sender of packet `about` that `target` is a better next hop, at `mac` if that is known (RFC 4861 4.5).

    As much is quoted as makes it no longer than the least MTU; what is no multiple of 8 bytes loses its end.
    """
    sender, destination = IPv6Address(about[8:24]), about[24:40]
    link_address = bytes((_TARGET_OPTION, 1)) + mac if mac else b""
    start = bytes((Type.REDIRECT, 0, 0, 0)) + bytes(4) + target.packed + destination + link_address
    size = IPV6_HEADER + int.from_bytes(about[4:6], "big")
    room = IPV6_LEAST_MTU - IPV6_HEADER - len(start) - 8
    quoted = about[: min(size, len(about), room) // 8 * 8]
    option = bytes((_REDIRECTED_OPTION, 1 + len(quoted) // 8)) + bytes(6) + quoted
    return message_packet(source, sender, start + option, ND_HOP_LIMIT)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The group that every node with such an address is in (RFC 4291 2.7.1)."""
    return IPv6Address(int(_SOLICITED_NODES.network_address) | int(address) & 0xFFFFFF)


def group_mac(group: IPv6Address) -> bytes:
    """The Ethernet address of an IPv6 group (RFC 2464 7)."""
    return b"\x33\x33" + group.packed[12:]


def link_local(mac: bytes) -> IPv6Address:
    """The link-local address of an interface with this MAC (RFC 4291 appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:])


def is_sound(packet: Ipv6, message: bytes) -> bool:
    """Whether the checksum of an ICMPv6 message is right."""
    return transport_checksum(packet.source, packet.destination, ICMPV6, message) == 0


def message_packet(source: IPv6Address, destination: IPv6Address, message: bytes, hop_limit: int) -> Ipv6:
    """The packet with a message, whose checksum is filled in."""
    total = transport_checksum(source, destination, ICMPV6, message)
    summed = message[:2] + total.to_bytes(2, "big") + message[4:]
    return Ipv6(source, destination, ICMPV6, summed, hop_limit)
