"""What IGMP, MLD and multicast routers tell, whichever protocol and version they tell it in (igmp.py, mld.py)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct
from msgspec.structs import replace

Address = IPv4Address | IPv6Address

RECORDS_AT = 8
"""Where the group records of a report begin, in IGMPv3 and MLDv2 alike; the two bytes before say how many there are."""

_EXPONENT_BITS = 3
_INTERVAL_MANTISSA_BITS = 4
_TAIL = struct.Struct("!BBH")
_RECORD = struct.Struct("!BBH")


class Query(Struct, frozen=True):
    """Who listens? `group` None: to anything (a general query).

    `source` may be 0.0.0.0: a bridge that asks, and no router. `of_sources`: only about senders within the group.
    `suppress`: others are not to take anybody's silence for an answer. What a version does not tell is None.
    """

    source: Address
    group: Address | None
    max_response_s: float
    of_sources: bool = False
    suppress: bool = False
    robustness: int | None = None
    interval_s: float | None = None


class Join(Struct, frozen=True):
    """A station listens to a group, be it to some of its senders only."""

    group: Address


class Leave(Struct, frozen=True):
    """A station no longer listens to a group; others behind the same port may."""

    group: Address


class RouterHello(Struct, frozen=True):
    """A multicast router is there, for so many seconds if nothing more is heard; 0: it goes away."""

    hold_s: float


Message = Query | Join | Leave | RouterHello

MODE_IS_INCLUDE, MODE_IS_EXCLUDE, CHANGE_TO_INCLUDE, CHANGE_TO_EXCLUDE, ALLOW, BLOCK = range(1, 7)
"""Record types, RFC 3376 4.2.12 and RFC 3810 5.2.12."""


def read_tail(query: Query, tail: bytes) -> Query:
    """A query with what IGMPv3 and MLDv2 have at its end (RFC 3376 4.1.5 to 4.1.8, RFC 3810 5.1.7 to 5.1.10)."""
    flags, interval, sources = _TAIL.unpack_from(tail)
    return replace(
        query,
        of_sources=sources > 0,
        suppress=bool(flags & 8),
        robustness=flags & 7 or None,
        interval_s=decoded(interval, _INTERVAL_MANTISSA_BITS) or None,
    )


def packed_tail(query: Query) -> bytes:
    """The end of a query that asks about no sources."""
    flags = (query.robustness or 0) & 7 | query.suppress << 3
    return _TAIL.pack(flags, encoded(round(query.interval_s or 0), _INTERVAL_MANTISSA_BITS), 0)


def packed_records(kind: int, groups: Iterable[Address]) -> bytes:
    """What follows the checksum of a report that says the same of several groups, and names no senders."""
    records = [_RECORD.pack(kind, 0, 0) + group.packed for group in groups]
    return bytes(2) + len(records).to_bytes(2, "big") + b"".join(records)


def read_records(report: bytes, address_bytes: int) -> Iterator[Join | Leave]:
    """What a report of IGMPv3 or MLDv2 tells (RFC 3376 4.2, RFC 3810 5.2). Raises ValueError where it is cut short."""
    count, at = int.from_bytes(report[RECORDS_AT - 2 : RECORDS_AT], "big"), RECORDS_AT
    for _ in range(count):
        group_at = at + _RECORD.size
        if group_at + address_bytes > len(report):
            raise ValueError("a record is cut short")
        kind, auxiliary, sources = _RECORD.unpack_from(report, at)
        group = ip_address(report[group_at : group_at + address_bytes])
        at = group_at + address_bytes * (1 + sources) + 4 * auxiliary
        if at > len(report):
            raise ValueError("a record is cut short")
        found = _record(kind, group, sources)
        if found:
            yield found


def _record(kind: int, group: Address, sources: int) -> Join | Leave | None:
    """What a record with so many sources means for the group as a whole; None: nothing, or nothing that is known.

    BLOCK may end the last of the sources that a station listens to: then its membership ends by time.
    """
    if kind in (MODE_IS_INCLUDE, CHANGE_TO_INCLUDE) and not sources:
        return Leave(group)
    return Join(group) if MODE_IS_INCLUDE <= kind <= ALLOW else None


def decoded(code: int, mantissa_bits: int) -> int:
    """A value in the form of RFC 3376 4.1.1 and RFC 3810 5.1.3: large ones are floating-point, as a bit says."""
    marker = 1 << (mantissa_bits + _EXPONENT_BITS)
    if code < marker:
        return code
    exponent = code >> mantissa_bits & ((1 << _EXPONENT_BITS) - 1)
    return (code & ((1 << mantissa_bits) - 1) | 1 << mantissa_bits) << (exponent + 3)


def encoded(value: int, mantissa_bits: int) -> int:
    """The code of a value, rounded down, or of the largest that there is."""
    marker = 1 << (mantissa_bits + _EXPONENT_BITS)
    if value < marker:
        return value
    for exponent in range(1 << _EXPONENT_BITS):
        mantissa = value >> (exponent + 3)
        if mantissa < 1 << (mantissa_bits + 1):
            return marker | exponent << mantissa_bits | mantissa & ((1 << mantissa_bits) - 1)
    return 2 * marker - 1
