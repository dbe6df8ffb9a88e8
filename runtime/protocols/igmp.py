"""IGMP (RFC 1112, RFC 2236, RFC 3376) and PIM's hello: IPv4 packets in, what they tell out; queries as frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address

from .ethernet import ETH_P_IP, Frame
from .internet import Ipv4, checksum, read_ipv4
from .membership import Join, Leave, Message, Query, RouterHello, decoded, encoded, packed_tail, read_records, read_tail
from .pim import PIM, read_hello

IGMP = 2
ALL_SYSTEMS = IPv4Address("224.0.0.1")

_LEAST = 8  # bytes of a message
_V3_QUERY = 12
_V1_MAX_RESPONSE_S = 10.0  # RFC 2236 4
_MANTISSA_BITS = 4
_TENTHS = 10
_INTERNETWORK_CONTROL = 0xC0
_DONT_FRAGMENT = 0x4000
_ROUTER_ALERT = bytes.fromhex("94040000")  # RFC 2113
_MESSAGE = struct.Struct("!BBH4s")
_HELLO_UNITS = 3  # RFC 4286 8.1: a router is gone after so many intervals without an advertisement


class Type(IntEnum):
    """Types of messages; the last three are of RFC 4286."""

    QUERY = 0x11
    V1_REPORT = 0x12
    V2_REPORT = 0x16
    LEAVE = 0x17
    V3_REPORT = 0x22
    ROUTER_ADVERTISEMENT = 0x30
    ROUTER_TERMINATION = 0x32


def read(packet: bytes) -> tuple[Message, ...]:
    """What a packet tells. Raises ValueError where it is broken or has a wrong checksum (RFC 4541 2.1.1)."""
    ip = read_ipv4(packet)
    if ip.is_fragment:
        raise ValueError("a fragment")
    if ip.protocol not in (IGMP, PIM):
        return ()
    if checksum(ip.payload) != 0:
        raise ValueError("checksum")
    if ip.protocol == PIM:
        return read_hello(ip.payload)
    if len(ip.payload) < _LEAST:
        raise ValueError("cut short")
    return tuple(_messages(ip))


def _messages(ip: Ipv4) -> Iterator[Message]:
    kind, code, _, packed = _MESSAGE.unpack_from(ip.payload)
    match kind:
        case Type.QUERY:
            yield _query(ip.source, ip.payload)
        case Type.V1_REPORT | Type.V2_REPORT:
            yield Join(IPv4Address(packed))
        case Type.LEAVE:
            yield Leave(IPv4Address(packed))
        case Type.V3_REPORT:
            yield from read_records(ip.payload, 4)
        case Type.ROUTER_ADVERTISEMENT:
            yield RouterHello(_HELLO_UNITS * code)
        case Type.ROUTER_TERMINATION:
            yield RouterHello(0)


def _query(source: IPv4Address, message: bytes) -> Query:
    """RFC 3376 7.1: the version is told by length and code."""
    _, code, _, packed = _MESSAGE.unpack_from(message)
    group = IPv4Address(packed) if any(packed) else None
    if len(message) < _V3_QUERY:
        return Query(source, group, code / _TENTHS if code else _V1_MAX_RESPONSE_S)
    return read_tail(Query(source, group, decoded(code, _MANTISSA_BITS) / _TENTHS), message[_LEAST:])


def query(station: bytes, query: Query) -> Frame:
    """An IGMPv3 query as `station` (a MAC address) sends it: to all, or to the group that it asks about."""
    group = query.group or IPv4Address(0)
    destination = query.group or ALL_SYSTEMS
    code = encoded(round(query.max_response_s * _TENTHS), _MANTISSA_BITS)
    blank = _MESSAGE.pack(Type.QUERY, code, 0, group.packed) + packed_tail(query)
    message = blank[:2] + checksum(blank).to_bytes(2, "big") + blank[4:]
    assert isinstance(query.source, IPv4Address)
    assert isinstance(destination, IPv4Address)
    packet = Ipv4(
        source=query.source,
        destination=destination,
        protocol=IGMP,
        payload=message,
        ttl=1,
        tos=_INTERNETWORK_CONTROL,
        fragment=_DONT_FRAGMENT,
        options=_ROUTER_ALERT,
    )
    return Frame(group_mac(destination), station, ETH_P_IP, packet.packed())


def group_mac(group: IPv4Address) -> bytes:
    """RFC 1112 6.4: the lowest 23 bits of a group's address."""
    return b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")
