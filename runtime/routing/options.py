"""IP options that concern routers: a packet with them in, the packet as it goes on or what is wrong with it out."""

from __future__ import annotations

from ipaddress import IPv4Address

from msgspec.structs import replace

from ..protocols.internet import DESTINATION_OPTIONS, IPV6_HEADER, ROUTING, Ipv4, Ipv6

RECORD_ROUTE, TIMESTAMP, LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE = 7, 68, 131, 137
_END, _NO_OPERATION = 0, 1
_FIRST_POINTER = 4  # of a route: from 1 on, behind type, length and pointer
_ONLY_TIMES, _WITH_ADDRESSES = 0, 1  # kinds of timestamps; 3 are those of addresses that the sender has named
_MIDNIGHT = 86_400_000  # milliseconds


class OptionProblem(Exception):
    """`pointer` is the place in the packet that is wrong; None where the packet is dropped without a word."""

    def __init__(self, pointer: int | None, code: int = 0) -> None:
        super().__init__(pointer)
        self.pointer = pointer
        self.code = code


def processed4(packet: Ipv4, address: IPv4Address, milliseconds: int) -> Ipv4:
    """The packet with what a router has to write into its options (RFC 1812 5.2.4.1, 5.3.13).

    `address` is the router's own on the way out, `milliseconds` those since midnight UT. Raises OptionProblem; source
    routes are one, without a word to the sender (RFC 7126 4.3, 4.4).
    """
    options = bytearray(packet.options)
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            raise OptionProblem(20 + at + 1)
        _write(options, at, length, address, milliseconds % _MIDNIGHT)
        at += length
    return replace(packet, options=bytes(options))


def _write(options: bytearray, at: int, length: int, address: IPv4Address, milliseconds: int) -> None:
    kind = options[at]
    if kind in (LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE):
        raise OptionProblem(None)
    if kind == RECORD_ROUTE:
        _record_route(options, at, length, address)
    elif kind == TIMESTAMP:
        _timestamp(options, at, length, address, milliseconds)


def _record_route(options: bytearray, at: int, length: int, address: IPv4Address) -> None:
    if length < 3 or options[at + 2] < _FIRST_POINTER:
        raise OptionProblem(20 + at + 2)
    pointer = options[at + 2]
    if pointer > length:
        return  # full
    if pointer + 3 > length:
        raise OptionProblem(20 + at + 2)
    options[at + pointer - 1 : at + pointer + 3] = address.packed
    options[at + 2] = pointer + 4


def _timestamp(options: bytearray, at: int, length: int, address: IPv4Address, milliseconds: int) -> None:
    if length < 4 or options[at + 2] < 5:
        raise OptionProblem(20 + at + 2)
    pointer, kind = options[at + 2], options[at + 3] & 0x0F
    entry = address.packed if kind == _WITH_ADDRESSES else b""
    entry += milliseconds.to_bytes(4, "big")
    if kind not in (_ONLY_TIMES, _WITH_ADDRESSES):
        return  # for routers that the sender has named
    if pointer > length:
        if options[at + 3] >> 4 == 15:
            raise OptionProblem(20 + at + 3)
        options[at + 3] += 0x10  # one more that had no room
        return
    if pointer + len(entry) - 1 > length:
        raise OptionProblem(20 + at + 2)
    options[at + pointer - 1 : at + pointer - 1 + len(entry)] = entry
    options[at + 2] = pointer + len(entry)


_PAD1, _PADN, _ROUTER_ALERT = 0, 1, 5
_UNRECOGNIZED = 2  # code of a parameter problem (RFC 4443 3.4)


def checked6(packet: Ipv6) -> None:
    """Raises OptionProblem for a hop-by-hop header that stops its packet (RFC 8200 4.2, 4.3)."""
    _checked_options(packet, IPV6_HEADER)


def checked_for_the_router(packet: Ipv6) -> None:
    """Raises OptionProblem for an extension header that has its destination refuse the packet (RFC 8200 4.2, 4.4)."""
    for kind, at in packet.extension_headers():
        if kind == ROUTING and packet.payload[at - IPV6_HEADER + 3]:  # segments left; no kind of route is known here
            raise OptionProblem(at + 2)
        if kind == DESTINATION_OPTIONS:
            _checked_options(packet, at)


def _checked_options(packet: Ipv6, start: int) -> None:
    """Those of the header that begins at `start` in the packet."""
    header = packet.payload[start - IPV6_HEADER :]
    header = header[: 8 + 8 * header[1]] if len(header) >= 8 else b""
    if len(header) < 8 or len(header) != 8 + 8 * header[1]:
        raise OptionProblem(None)
    at = 2
    while at < len(header):
        if header[at] == _PAD1:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else 0xFF
        if at + 2 + length > len(header):
            raise OptionProblem(start + at)
        if header[at] not in (_PADN, _ROUTER_ALERT):
            _unknown6(packet, header[at], start + at)
        at += 2 + length


def _unknown6(packet: Ipv6, kind: int, pointer: int) -> None:
    """The two highest bits of an option that is not known say what to do (RFC 8200 4.2)."""
    match kind >> 6:
        case 1:
            raise OptionProblem(None)
        case 2:
            raise OptionProblem(pointer, _UNRECOGNIZED)
        case 3:
            raise OptionProblem(None if packet.destination.is_multicast else pointer, _UNRECOGNIZED)
