"""ICMP for IPv4 (RFC 792): a packet in, the error about it or the answer to it out, where there may be one."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from .internet import ICMP, IPV4_HEADER, Ipv4, checksum


class Type(IntEnum):
    """The types that a router sends or must tell apart."""

    ECHO_REPLY = 0
    UNREACHABLE = 3
    QUENCH = 4
    REDIRECT = 5
    ECHO_REQUEST = 8
    EXPIRED = 11
    PARAMETER_PROBLEM = 12


FOR_HOST = 1  # code of a REDIRECT, the one that routers send (RFC 1812 5.2.7.2)


class Unreachable(IntEnum):
    """Codes of UNREACHABLE (RFC 792, RFC 1812 5.2.7.1)."""

    NET = 0
    HOST = 1
    PROTOCOL = 2
    PORT = 3
    TOO_BIG = 4
    PROHIBITED = 13


REASSEMBLY = 1  # code of EXPIRED: fragments have not become a whole datagram in time
ERRORS = {Type.UNREACHABLE, Type.QUENCH, Type.REDIRECT, Type.EXPIRED, Type.PARAMETER_PROBLEM}
ERROR_BYTES = 576
"""As much of the packet is quoted as makes the error no longer (RFC 1812 4.3.2.3)."""
_PRECEDENCE, _TOS = 0xC0, 0x1E
"""An error has the type of service of what it is about, and a precedence of its own (RFC 1812 4.3.2.5)."""
_HEADER = 8
_NO_HOSTS = [IPv4Network(prefix) for prefix in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]


def may_be_told(packet: Ipv4) -> bool:
    """Whether there may be an error about it (RFC 1812 4.3.2.7), as far as the packet itself tells."""
    if any(packet.source in network or packet.destination in network for network in _NO_HOSTS):
        return False
    if packet.is_later_fragment:
        return False
    return packet.protocol != ICMP or not packet.payload or packet.payload[0] not in ERRORS


def error(about: bytes, source: IPv4Address, kind: Type, code: int = 0, detail: int = 0, ttl: int = 64) -> Ipv4:
    """The error that quotes packet `about`; `detail` is its second word: a pointer, the next MTU, a gateway."""
    sender = IPv4Address(about[12:16])
    quoted = about[: min(int.from_bytes(about[2:4], "big"), ERROR_BYTES - IPV4_HEADER - _HEADER)]
    message = _summed(kind, code, detail.to_bytes(4, "big") + quoted)
    return Ipv4(source, sender, ICMP, message, ttl=ttl, tos=_PRECEDENCE | about[1] & _TOS)


def echo_reply(request: Ipv4, source: IPv4Address, ttl: int = 64) -> Ipv4 | None:
    """The answer to an echo request; None for what is none, or has a wrong checksum (RFC 1122 3.2.2.6)."""
    message = request.payload
    if len(message) < _HEADER or message[0] != Type.ECHO_REQUEST or checksum(message) != 0:
        return None
    answer = _summed(Type.ECHO_REPLY, 0, message[4:])
    return Ipv4(source, request.source, ICMP, answer, ttl=ttl, tos=request.tos, identification=request.identification)


def _summed(kind: Type, code: int, rest: bytes) -> bytes:
    total = checksum(bytes((kind, code, 0, 0)) + rest)
    return bytes((kind, code)) + total.to_bytes(2, "big") + rest
