"""Fragments of IPv4 and IPv6 packets in, whole packets out (RFC 791 3.2, RFC 1122 3.3.2, RFC 8200 4.5)."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from .internet import (
    DONT_FRAGMENT,
    ICMPV6,
    IPV4_HEADER,
    IPV6_HEADER,
    MORE_FRAGMENTS,
    OFFSET,
    TCP,
    UDP,
    Ipv4,
    Ipv6,
)

MOST_DATAGRAMS = 1024
"""Of one IP version that are incomplete at once; for one more, the one that was begun first goes."""
MOST_BYTES = 2 << 20
"""Of all their fragments; likewise. The largest datagram takes a tenth of it at most, unless its pieces are tiny."""
COST = 256
"""Bytes that a fragment takes beside its content."""
MOST_CONTENT = 65535
"""Bytes of the longest packet: in IPv4 with its header, in IPv6 without the fixed one."""

UNIT = 8
"""Bytes in which places of fragments are counted."""

_HEADER_BYTES = 8  # IPv6 fragment header
_MORE6 = 1
_NEXT_HEADER_AT = 6
_PAYLOAD_LENGTH_AT, _OFFSET_IN_HEADER = 4, 2
_LEAST_UPPER = {TCP: 20, UDP: 8, ICMPV6: 8}  # bytes of the header behind all others
INCOMPLETE_CHAIN = 3  # code of a parameter problem (RFC 7112 5)

Origin = TypeVar("Origin")


class Fragment(NamedTuple):
    """A part of a datagram, which belongs `at` so many bytes from its beginning."""

    at: int
    content: bytes
    is_last: bool

    @property
    def end(self) -> int:
        return self.at + len(self.content)


class FragmentProblem(Exception):
    """What cannot be a fragment, and its sender is told (RFC 8200 4.5): `pointer` is the place that is wrong."""

    def __init__(self, pointer: int, code: int = 0) -> None:
        super().__init__(pointer)
        self.pointer = pointer
        self.code = code


class _Datagram(Struct, Generic[Origin]):
    """What has come of one; `first` is where the fragment at 0 came from. A broken one takes in nothing any more."""

    until: float
    pieces: list[Fragment] = field(default_factory=list)
    first: Origin | None = None
    total: int | None = None
    present: int = 0
    cost: int = COST
    broken: bool = False

    def add(self, fragment: Fragment, origin: Origin) -> None:
        """Overlapping fragments are an attack, and break all of it (RFC 5722); what comes twice is kept once."""
        place = bisect_left(self.pieces, fragment.at, key=lambda piece: piece.at)
        if self.broken or self.pieces[place : place + 1] == [fragment]:
            return
        if not self._fits(place, fragment):
            self.pieces, self.first, self.cost, self.broken = [], None, COST, True
            return
        self.pieces.insert(place, fragment)
        self.present += len(fragment.content)
        self.cost += len(fragment.content) + COST
        if fragment.is_last:
            self.total = fragment.end
        if fragment.at == 0:
            self.first = origin
            self.cost += len(fragment.content)  # which holds it as well

    def _fits(self, place: int, fragment: Fragment) -> bool:
        """Neither over those before and behind it, nor beyond the end, nor an end before the others'."""
        before, behind = self.pieces[place - 1 : place] if place else [], self.pieces[place : place + 1]
        if any(piece.end > fragment.at for piece in before) or any(piece.at < fragment.end for piece in behind):
            return False
        if fragment.is_last:
            return self.total is None and not behind
        return self.total is None or fragment.end <= self.total

    @property
    def content(self) -> bytes | None:
        """All of it, None while some is missing."""
        if self.broken or self.present != self.total:
            return None
        return b"".join(piece.content for piece in self.pieces)


class Reassembler(Generic[Origin]):
    """Datagrams of one IP version that are incomplete, in the order in which they were begun.

    `lifetime`: seconds from the first fragment that comes until the others have to be there. `Origin` is what the
    caller wants to know of the fragment at 0: the frame that it came in, which counts as another copy of its content.
    """

    def __init__(self, lifetime: float, most_datagrams: int = MOST_DATAGRAMS, most_bytes: int = MOST_BYTES) -> None:
        self._lifetime, self._most_datagrams, self._most_bytes = lifetime, most_datagrams, most_bytes
        self._datagrams: OrderedDict[Hashable, _Datagram[Origin]] = OrderedDict()
        self.cost = 0

    def __len__(self) -> int:
        return len(self._datagrams)

    def add(self, key: Hashable, fragment: Fragment, origin: Origin, now: float) -> tuple[Origin, bytes] | None:
        """What is complete now: its content, and where the fragment at 0 came from. `key` is what all of them share."""
        if not fragment.content:
            return None
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._datagrams[key] = _Datagram(now + self._lifetime)
            self.cost += datagram.cost
        before = datagram.cost
        datagram.add(fragment, origin)
        self.cost += datagram.cost - before
        content = datagram.content
        if content is not None and datagram.first is not None:
            self._forget(key)
            return datagram.first, content
        while len(self._datagrams) > self._most_datagrams or self.cost > self._most_bytes:
            self._forget(next(iter(self._datagrams)))
        return None

    def expired(self, now: float) -> Iterator[Origin]:
        """Gives up what has waited too long; of those whose beginning has come, the sender is told (RFC 792)."""
        while self._datagrams and (oldest := next(iter(self._datagrams.items())))[1].until <= now:
            self._forget(oldest[0])
            if oldest[1].first is not None:
                yield oldest[1].first

    def _forget(self, key: Hashable) -> None:
        self.cost -= self._datagrams.pop(key).cost


def key4(packet: Ipv4) -> Hashable:
    """RFC 791 3.2."""
    return packet.source, packet.destination, packet.protocol, packet.identification


def fragment4(packet: Ipv4) -> Fragment | None:
    """What a packet brings of a datagram; None for what cannot be a part of one, of which nobody is told."""
    at, is_last = (packet.fragment & OFFSET) * UNIT, not packet.fragment & MORE_FRAGMENTS
    if IPV4_HEADER + len(packet.options) + at + len(packet.payload) > MOST_CONTENT:
        return None  # "ping of death"
    if not is_last and len(packet.payload) % UNIT:
        return None
    return Fragment(at, packet.payload, is_last)


def whole4(first: Ipv4, content: bytes) -> Ipv4 | None:
    """The datagram that begins with `first`; None where it is too long behind the options that only that one has."""
    if IPV4_HEADER + len(first.options) + len(content) > MOST_CONTENT:
        return None
    return replace(first, payload=content, fragment=first.fragment & DONT_FRAGMENT)


class Place6(NamedTuple):
    """A fragment header: where in the packet its number stands, and where it begins itself."""

    named_at: int
    at: int


class Ipv6Fragment(NamedTuple):
    """A packet that is a part of another one."""

    packet: Ipv6
    place: Place6

    @property
    def _header(self) -> bytes:
        at = self.place.at - IPV6_HEADER
        return self.packet.payload[at : at + _HEADER_BYTES]

    @property
    def protocol(self) -> int:
        """That of what begins behind the header of the fragment at 0."""
        return self._header[0]

    @property
    def key(self) -> Hashable:
        return self.packet.source, self.packet.destination, self._header[4:8]

    @property
    def fragment(self) -> Fragment:
        """Raises FragmentProblem."""
        word = int.from_bytes(self._header[_OFFSET_IN_HEADER:4], "big")
        content = self.packet.payload[self.place.at - IPV6_HEADER + _HEADER_BYTES :]
        found = Fragment(word // UNIT * UNIT, content, not word & _MORE6)
        if not found.is_last and len(content) % UNIT:
            raise FragmentProblem(_PAYLOAD_LENGTH_AT)
        if self.place.at - IPV6_HEADER + found.end > MOST_CONTENT:
            raise FragmentProblem(self.place.at + _OFFSET_IN_HEADER)
        if found.at == 0 and not self._has_all_headers():
            raise FragmentProblem(0, INCOMPLETE_CHAIN)
        return found

    def _has_all_headers(self) -> bool:
        """RFC 7112 5: up to that of the transport protocol."""
        protocol, rest, _ = self.packet.transport()
        return len(rest) >= _LEAST_UPPER.get(protocol, 1)

    def whole(self, content: bytes) -> Ipv6 | None:
        """The datagram that begins with this one, with the headers before; None where it is too long behind those."""
        before = bytearray(self.packet.payload[: self.place.at - IPV6_HEADER])
        if len(before) + len(content) > MOST_CONTENT:
            return None
        if self.place.named_at == _NEXT_HEADER_AT:
            return replace(self.packet, protocol=self.protocol, payload=bytes(before) + content)
        before[self.place.named_at - IPV6_HEADER] = self.protocol
        return replace(self.packet, payload=bytes(before) + content)


def fragment6(packet: Ipv6) -> Ipv6Fragment | None:
    """None for what is whole, be it with a fragment header (RFC 6946)."""
    place = packet.fragment_header()
    if place is None:
        return None
    found = Ipv6Fragment(packet, Place6(*place))
    at = found.place.at - IPV6_HEADER + _OFFSET_IN_HEADER
    return found if int.from_bytes(packet.payload[at : at + 2], "big") & (0xFFF8 | _MORE6) else None
