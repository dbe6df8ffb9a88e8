"""MLD (RFC 2710, RFC 3810) and PIM's hello: IPv6 packets in, what they tell out; queries as frames."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from ipaddress import IPv6Address

from .ethernet import ETH_P_IPV6, Frame
from .icmp6 import group_mac
from .internet import HOP_BY_HOP, ICMPV6, Ipv6, read_ipv6, transport_checksum
from .membership import (
    Join,
    Leave,
    Message,
    Query,
    RouterHello,
    decoded,
    encoded,
    packed_records,
    packed_tail,
    read_records,
    read_tail,
)
from .pim import PIM, read_hello

ALL_NODES = IPv6Address("ff02::1")
UNSPECIFIED = IPv6Address("::")
LISTENERS = IPv6Address("ff02::16")
"""Where MLDv2 reports go (RFC 3810 5.2.14)."""

_LEAST = 24  # bytes of a message about one group
_V2_QUERY = 28
_MANTISSA_BITS = 12
_MILLISECONDS = 1000
_ROUTER_ALERT = bytes.fromhex("3a00050200000100")  # a hop-by-hop header before ICMPv6 (RFC 2711), padded
_HELLO_UNITS = 3  # RFC 4286 8.1
_MESSAGE = struct.Struct("!BBHHH16s")


class Type(IntEnum):
    """Types of ICMPv6; the last two are of RFC 4286."""

    QUERY = 130
    V1_REPORT = 131
    DONE = 132
    V2_REPORT = 143
    ROUTER_ADVERTISEMENT = 151
    ROUTER_TERMINATION = 153


def read(packet: bytes) -> tuple[Message, ...]:
    """What a packet tells. Raises ValueError where it is broken, has a wrong checksum, or was not sent on this link."""
    ip = read_ipv6(packet)
    protocol, message, later = ip.transport()
    if protocol not in (ICMPV6, PIM):
        return ()
    if later or len(message) < 4:
        raise ValueError("cut short, or a fragment")
    if ip.hop_limit != 1 or not (ip.source.is_link_local or ip.source == UNSPECIFIED):
        raise ValueError("not of this link")
    if transport_checksum(ip.source, ip.destination, protocol, message) != 0:
        raise ValueError("checksum")
    if protocol == PIM:
        return read_hello(message)
    return tuple(_messages(ip.source, message))


def _messages(source: IPv6Address, message: bytes) -> Iterator[Message]:
    match message[0]:
        case Type.QUERY:
            yield _query(source, message)
        case Type.V1_REPORT:
            yield Join(_group(message))
        case Type.DONE:
            yield Leave(_group(message))
        case Type.V2_REPORT:
            yield from read_records(message, 16)
        case Type.ROUTER_ADVERTISEMENT:
            yield RouterHello(_HELLO_UNITS * message[1])
        case Type.ROUTER_TERMINATION:
            yield RouterHello(0)


def _group(message: bytes) -> IPv6Address:
    if len(message) < _LEAST:
        raise ValueError("cut short")
    return IPv6Address(message[8:24])


def _query(source: IPv6Address, message: bytes) -> Query:
    """RFC 3810 8.1: the version is told by the length. A query without a source to answer to is none (5.1.14)."""
    if source == UNSPECIFIED:
        raise ValueError("a query from nobody")
    group = _group(message)
    asked = None if group == UNSPECIFIED else group
    code = int.from_bytes(message[4:6], "big")
    if len(message) < _V2_QUERY:
        return Query(source, asked, code / _MILLISECONDS)
    return read_tail(Query(source, asked, decoded(code, _MANTISSA_BITS) / _MILLISECONDS), message[_LEAST:])


def query(station: bytes, query: Query) -> Frame:
    """An MLDv2 query as `station` (a MAC address) sends it: to all, or to the group that it asks about."""
    group, destination = query.group or UNSPECIFIED, query.group or ALL_NODES
    code = encoded(round(query.max_response_s * _MILLISECONDS), _MANTISSA_BITS)
    blank = _MESSAGE.pack(Type.QUERY, 0, 0, code, 0, group.packed) + packed_tail(query)
    assert isinstance(query.source, IPv6Address)
    assert isinstance(destination, IPv6Address)
    return _frame(station, query.source, destination, blank)


def report(station: bytes, source: IPv6Address, groups: Iterable[IPv6Address], kind: int) -> Frame:
    """An MLDv2 report of a station (a MAC address with its link-local one) that it is in these groups.

    `kind`: MODE_IS_EXCLUDE, or CHANGE_TO_EXCLUDE where that is new (RFC 3810 5.2.12).
    """
    records = packed_records(kind, groups)
    return _frame(station, source, LISTENERS, bytes((Type.V2_REPORT, 0, 0, 0)) + records)


def report1(station: bytes, source: IPv6Address, group: IPv6Address) -> Frame:
    """The MLDv1 report that it is in a group, which goes to that group (RFC 2710 3.5)."""
    return _frame(station, source, group, _MESSAGE.pack(Type.V1_REPORT, 0, 0, 0, 0, group.packed))


def _frame(station: bytes, source: IPv6Address, destination: IPv6Address, message: bytes) -> Frame:
    """`message` has a checksum of 0."""
    summed = transport_checksum(source, destination, ICMPV6, message)
    whole = _ROUTER_ALERT + message[:2] + summed.to_bytes(2, "big") + message[4:]
    packet = Ipv6(source, destination, HOP_BY_HOP, whole, hop_limit=1)
    return Frame(group_mac(destination), station, ETH_P_IPV6, packet.packed())
