"""Fragments for a router's own addresses in, whole packets out; and the router's own packets as they fit its links."""

from __future__ import annotations

from collections.abc import Iterator
from secrets import randbits
from typing import NamedTuple

from ..protocols.ethernet import Frame
from ..protocols.internet import IPV4_HEADER, IPV6_HEADER, IPV6_LEAST_MTU, Ipv4, Ipv6, read_ipv4, read_ipv6
from ..protocols.reassembly import Reassembler, fragment4, fragment6, key4, whole4
from .ports import RouterPort

LIFETIME4 = 30.0
"""Seconds that the rest of a datagram may take: RFC 791 3.2 and RFC 1122 3.3.2 give 15 to 120, Linux 30."""
LIFETIME6 = 60.0
"""RFC 8200 4.5."""

LONGEST_OWN = 3498
"""Bytes of the longest packet that the router sends in one piece: the way into native chains takes no longer ones."""


class Arrived(NamedTuple):
    """A frame, and the port that it came in by."""

    port: RouterPort
    frame: Frame


class Fragments:
    """What is incomplete of all packets for one router. Where `add4` and `add6` return None, there is no packet yet."""

    def __init__(self) -> None:
        self._incomplete4: Reassembler[Arrived] = Reassembler(LIFETIME4)
        self._incomplete6: Reassembler[Arrived] = Reassembler(LIFETIME6)

    def add4(self, port: RouterPort, frame: Frame, packet: Ipv4, now: float) -> tuple[Frame, Ipv4] | None:
        """The whole packet, and the frame that would have brought it."""
        fragment = fragment4(packet)
        found = fragment and self._incomplete4.add(key4(packet), fragment, Arrived(port, frame), now)
        if not found:
            return None
        (_, first), content = found
        whole = whole4(read_ipv4(first.payload), content)
        return (first._replace(payload=whole.packed()), whole) if whole else None

    def add6(self, port: RouterPort, frame: Frame, packet: Ipv6, now: float) -> tuple[Frame, Ipv6] | None:
        """Likewise; a packet that was whole is returned as it is, one in two layers is dropped.

        Raises FragmentProblem.
        """
        part = fragment6(packet)
        if part is None:
            return frame, packet
        link = port.index if packet.source.is_link_local or packet.destination.is_link_local else None
        found = self._incomplete6.add((link, part.key), part.fragment, Arrived(port, frame), now)
        if not found:
            return None
        (_, first), content = found
        begins = fragment6(read_ipv6(first.payload))
        whole = begins.whole(content) if begins else None
        return (first._replace(payload=whole.packed()), whole) if whole and not fragment6(whole) else None

    def expired(self, now: float) -> Iterator[Arrived]:
        """The first fragments of what has not become whole in time."""
        yield from self._incomplete4.expired(now)
        yield from self._incomplete6.expired(now)


def fitting4(packet: Ipv4, mtu: int) -> Iterator[Ipv4]:
    """A packet of the router's own as it leaves by a link with this MTU."""
    most = min(mtu, LONGEST_OWN)
    if IPV4_HEADER + len(packet.payload) <= most:
        yield packet
    else:
        yield from packet.cut(most)


def fitting6(packet: Ipv6, mtu: int) -> Iterator[Ipv6]:
    """Likewise. What has to be cut is so short then that it fits every link on its way (RFC 8200 5)."""
    if IPV6_HEADER + len(packet.payload) <= min(mtu, LONGEST_OWN):
        yield packet
    else:
        yield from packet.cut(IPV6_LEAST_MTU, randbits(32))
