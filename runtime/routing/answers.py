"""What a router says about packets that it cannot forward, or that are for itself: packets in, ICMP out.

Its own packets go into the port that the packet came in by, from that port's own MAC: the programs route them like all
others, and take one off the TTL, so they start with one more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from schemas.services.router import Address, NextHopRecord, Reason

from ..protocols import icmp, icmp6, tcp
from ..protocols.ethernet import ETH_P_IP, ETH_P_IPV6, Frame, is_group, read_frame
from ..protocols.internet import (
    DONT_FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4_HEADER,
    IPV6_HEADER,
    TCP,
    UDP,
    Ipv4,
    Ipv6,
    read_ipv4,
    read_ipv6,
)
from ..protocols.reassembly import FragmentProblem
from .fragments import Fragments, fitting4, fitting6
from .limit import ErrorLimit, RedirectLimit
from .options import OptionProblem, checked6, checked_for_the_router, processed4
from .ports import Outlet, Ports, RouterPort

TTL = 65
"""What the router's own packets start with: 64 when they leave."""

ECN = 0x03
"""A reset is no ECN-capable packet (RFC 3168 6.1.1)."""

_UNREACHABLE4 = {
    Reason.NO_ROUTE: icmp.Unreachable.NET,
    Reason.UNREACHABLE: icmp.Unreachable.HOST,
    Reason.RESOLVE: icmp.Unreachable.HOST,
    Reason.PROHIBITED: icmp.Unreachable.PROHIBITED,
}
_UNREACHABLE6 = {
    Reason.NO_ROUTE: icmp6.Unreachable.NO_ROUTE,
    Reason.UNREACHABLE: icmp6.Unreachable.REJECTED,
    Reason.RESOLVE: icmp6.Unreachable.ADDRESS,
    Reason.PROHIBITED: icmp6.Unreachable.PROHIBITED,
    Reason.SCOPE: icmp6.Unreachable.SCOPE,
}


class Answers:
    """Answers for one router. `wall` is the time of day in seconds."""

    def __init__(self, ports: Ports, outlet: Outlet, limit: ErrorLimit, wall: Callable[[], float] = time.time) -> None:
        self._ports, self._outlet, self._wall = ports, outlet, wall
        self._fragments = Fragments()
        self._least_mtu = min(port.mtu for port in ports.ports)
        self.limit, self.redirects = limit, RedirectLimit()
        self.senseless = 0  # packets that contradict themselves, about which nothing is said

    def undeliverable(self, port: int, frame: bytes, reason: Reason, nexthop: NextHopRecord | None, now: float) -> None:
        """A packet that is not forwarded, for a reason that its sender may be told.

        `nexthop`: where it would have gone. Packets of the router itself are dropped without a word. The end of `frame`
        may be missing: it is not quoted. Raises ValueError for a packet that makes no sense, or that cannot be cut.
        """
        if reason is not Reason.TOO_BIG and self.limit.is_exhausted(_sender(frame), now):
            return
        arrived, parsed = self._ports[port], read_frame(frame)
        if parsed.ethertype == ETH_P_IP:
            self._undeliverable4(arrived, parsed, reason, nexthop, now)
        else:
            self._undeliverable6(arrived, parsed, reason, nexthop, now)

    def unanswered(self, port: int, frame: bytes, now: float) -> None:
        """A packet whose next hop does not answer. One that makes no sense is counted only."""
        try:
            self.undeliverable(port, frame, Reason.RESOLVE, None, now)
        except ValueError:
            self.senseless += 1

    def _undeliverable4(
        self, arrived: RouterPort, frame: Frame, reason: Reason, nexthop: NextHopRecord | None, now: float
    ) -> None:
        if reason is Reason.TOO_BIG and nexthop is not None:
            self._too_big4(arrived, frame, self._ports[nexthop.port].mtu, now)
        elif reason is Reason.EXPIRED:
            self._tell4(arrived, frame, icmp.Type.EXPIRED, 0, 0, now)
        elif reason in _UNREACHABLE4:
            self._tell4(arrived, frame, icmp.Type.UNREACHABLE, _UNREACHABLE4[reason], 0, now)

    def _too_big4(self, arrived: RouterPort, frame: Frame, mtu: int, now: float) -> None:
        """Cuts it, or tells its sender. What fits is dropped: in pieces it would come up again, as long as it was."""
        if int.from_bytes(frame.payload[2:4], "big") <= mtu:
            return
        if read_ipv4(frame.payload, cut_short=True).dont_fragment:
            self._tell4(arrived, frame, icmp.Type.UNREACHABLE, icmp.Unreachable.TOO_BIG, mtu, now)
        else:
            for piece in read_ipv4(frame.payload).cut(mtu):
                self._originate4(arrived, piece)

    def _undeliverable6(
        self, arrived: RouterPort, frame: Frame, reason: Reason, nexthop: NextHopRecord | None, now: float
    ) -> None:
        if reason is Reason.TOO_BIG and nexthop is not None:
            mtu = self._ports[nexthop.port].mtu
            if IPV6_HEADER + int.from_bytes(frame.payload[4:6], "big") > mtu:
                self._tell6(arrived, frame, icmp6.Type.TOO_BIG, 0, mtu, now)
        elif reason is Reason.EXPIRED:
            self._tell6(arrived, frame, icmp6.Type.EXPIRED, 0, 0, now)
        elif reason in _UNREACHABLE6:
            self._tell6(arrived, frame, icmp6.Type.UNREACHABLE, _UNREACHABLE6[reason], 0, now)

    def redirect(self, port: int, frame: bytes, target: Address, mac: bytes | None, now: float) -> None:
        """A packet that has left by the port that it came in by: its sender may be told of `target`, its next hop.

        `mac` is that of the target, if it is known.
        """
        arrived, parsed = self._ports[port], read_frame(frame)
        if isinstance(target, IPv4Address):
            self._redirect4(arrived, parsed, target, now)
        else:
            self._redirect6(arrived, parsed, target, mac, now)

    def _redirect4(self, arrived: RouterPort, frame: Frame, target: IPv4Address, now: float) -> None:
        """From the address that the sender knows as its gateway's, as far as that can be told (RFC 1122 3.2.2.2)."""
        packet = read_ipv4(frame.payload, cut_short=True)
        if icmp.may_be_told(packet) and self.redirects.allows(packet.source, now):
            source = arrived.address_for(packet.source)
            self._tell4(arrived, frame, icmp.Type.REDIRECT, icmp.FOR_HOST, int(target), now, source)

    def _redirect6(self, arrived: RouterPort, frame: Frame, target: IPv6Address, mac: bytes | None, now: float) -> None:
        """From the link-local address, and with a hop limit that no router leaves as it is: out of the port at once."""
        packet = read_ipv6(frame.payload, cut_short=True)
        if not icmp6.may_be_told(packet) or not self.redirects.allows(packet.source, now):
            return
        if self.limit.allows(packet.source.packed, now):
            answer = icmp6.redirect(frame.payload, arrived.link_local, target, mac)
            self._outlet.send(arrived.index, Frame(frame.source, arrived.mac, ETH_P_IPV6, answer.packed()).packed())

    def local(self, port: int, frame: bytes, now: float) -> None:
        """A packet for the router itself (RFC 1122 3.2.2, RFC 4443)."""
        arrived, parsed = self._ports[port], read_frame(frame)
        if parsed.ethertype == ETH_P_IP:
            self._local4(arrived, parsed, read_ipv4(parsed.payload), now)
        else:
            self._local6(arrived, parsed, read_ipv6(parsed.payload), now)

    def _local4(self, arrived: RouterPort, frame: Frame, packet: Ipv4, now: float) -> None:
        if packet.is_fragment:
            whole = self._fragments.add4(arrived, frame, packet, now)
            if whole is None:
                return
            frame, packet = whole
        if packet.protocol == ICMP:
            reply = icmp.echo_reply(packet, packet.destination, TTL)
            if reply is not None:
                self._reply4(arrived, reply)
        elif packet.protocol == TCP:
            self._refuse(arrived, frame, packet, packet.payload)
        else:
            code = icmp.Unreachable.PORT if packet.protocol == UDP else icmp.Unreachable.PROTOCOL
            self._tell4(arrived, frame, icmp.Type.UNREACHABLE, code, 0, now, packet.destination)

    def _local6(self, arrived: RouterPort, frame: Frame, packet: Ipv6, now: float) -> None:
        asked = packet.destination
        shared = asked.is_multicast or self._is_anycast(asked)
        source = self._ports.source_towards(packet.source, arrived) if shared else asked
        if source is None or packet.source == icmp6.UNSPECIFIED:
            return
        assert isinstance(source, IPv6Address)
        try:
            whole = self._fragments.add6(arrived, frame, packet, now)
        except FragmentProblem as found:
            kind = icmp6.Type.PARAMETER_PROBLEM
            self._tell6(arrived, frame, kind, found.code, found.pointer, now, source)
            return
        if whole is not None:
            self._local_whole6(arrived, *whole, source, now)

    def _local_whole6(self, arrived: RouterPort, frame: Frame, packet: Ipv6, source: IPv6Address, now: float) -> None:
        protocol, payload, later = packet.transport()
        if later:
            return  # a fragment within a fragment
        try:
            checked_for_the_router(packet)
        except OptionProblem as found:
            if found.pointer is not None:
                self._tell6(arrived, frame, icmp6.Type.PARAMETER_PROBLEM, found.code, found.pointer, now, source)
            return
        if protocol == ICMPV6:
            reply = icmp6.echo_reply(packet, source, TTL)
            if reply is not None:
                self._reply6(arrived, frame, reply)
        elif protocol == TCP:
            self._refuse(arrived, frame, packet, payload)
        elif protocol == UDP:
            self._tell6(arrived, frame, icmp6.Type.UNREACHABLE, icmp6.Unreachable.PORT, 0, now, source)
        else:
            self._unknown_header(arrived, frame, packet, now, source)

    def _unknown_header(self, arrived: RouterPort, frame: Frame, packet: Ipv6, now: float, source: IPv6Address) -> None:
        """RFC 8200 4: a header that means nothing here; the pointer is where its number stands."""
        kind, code = icmp6.Type.PARAMETER_PROBLEM, icmp6.UNRECOGNIZED_HEADER
        self._tell6(arrived, frame, kind, code, packet.named_at(), now, source)

    def _refuse(self, arrived: RouterPort, frame: Frame, packet: Ipv4 | Ipv6, segment: bytes) -> None:
        """RFC 9293 3.5.2: nobody listens here."""
        reset = tcp.reset(packet.source, packet.destination, segment)
        if reset is None:
            return
        if isinstance(packet, Ipv4):
            answer = Ipv4(packet.destination, packet.source, TCP, reset, TTL, packet.tos & ~ECN, fragment=DONT_FRAGMENT)
            self._originate4(arrived, answer)
        else:
            self._originate6(arrived, frame, Ipv6(packet.destination, packet.source, TCP, reset, TTL))

    def tick(self, now: float) -> None:
        """Datagrams for the router that have not become whole in time (RFC 792, RFC 1122 3.3.2, RFC 8200 4.5)."""
        for arrived, frame in self._fragments.expired(now):
            if frame.ethertype == ETH_P_IP:
                asked: Address = read_ipv4(frame.payload).destination
                self._tell4(arrived, frame, icmp.Type.EXPIRED, icmp.REASSEMBLY, 0, now, asked)
            else:
                asked = read_ipv6(frame.payload).destination
                source = None if self._is_anycast(asked) else asked
                self._tell6(arrived, frame, icmp6.Type.EXPIRED, icmp6.REASSEMBLY, 0, now, source)

    def options(self, port: int, frame: bytes, now: float) -> None:
        """A packet with IPv4 options or an IPv6 hop-by-hop header: it goes on, or its sender is told."""
        arrived, parsed = self._ports[port], read_frame(frame)
        if parsed.ethertype == ETH_P_IP:
            self._options4(arrived, parsed, read_ipv4(parsed.payload), now)
        else:
            self._options6(arrived, parsed, read_ipv6(parsed.payload), now)

    def _options4(self, arrived: RouterPort, frame: Frame, packet: Ipv4, now: float) -> None:
        local = self._is_own(arrived, packet.destination)
        here = packet.destination if local else self._ports.source_towards(packet.destination, arrived)
        assert isinstance(here, IPv4Address)
        try:
            written = processed4(packet, here, int(self._wall() * 1000))
        except OptionProblem as found:
            if found.pointer is not None:
                asked = here if local else None
                self._tell4(arrived, frame, icmp.Type.PARAMETER_PROBLEM, 0, found.pointer << 24, now, asked)
            return
        if local:
            self._local4(arrived, frame, packet, now)
        else:
            self._originate4(arrived, written)

    def _options6(self, arrived: RouterPort, frame: Frame, packet: Ipv6, now: float) -> None:
        local = self._is_own(arrived, packet.destination)
        try:
            checked6(packet)
        except OptionProblem as found:
            if found.pointer is not None:
                asked = packet.destination if local and not self._is_anycast(packet.destination) else None
                kind = icmp6.Type.PARAMETER_PROBLEM
                self._tell6(arrived, frame, kind, found.code, found.pointer, now, asked)
            return
        if local:
            self._local6(arrived, frame, packet, now)
        else:
            self._outlet.inject(arrived.index, Frame(arrived.mac, arrived.mac, ETH_P_IPV6, frame.payload).packed())

    def _is_own(self, arrived: RouterPort, address: Address) -> bool:
        return arrived.owns(address) or self._ports.owner(address) is not None or self._is_anycast(address)

    def _is_anycast(self, address: Address) -> bool:
        return any(port.is_anycast(address) for port in self._ports.ports) and self._ports.owner(address) is None

    def _tell4(
        self,
        arrived: RouterPort,
        frame: Frame,
        kind: icmp.Type,
        code: int,
        detail: int,
        now: float,
        source: Address | None = None,
    ) -> None:
        packet = read_ipv4(frame.payload, cut_short=True)
        if self._ports.owner(packet.source) or is_group(frame.destination) or not icmp.may_be_told(packet):
            return
        source = source or self._ports.source_towards(packet.source, arrived)
        if source is None or not self.limit.allows(packet.source.packed, now):
            return
        assert isinstance(source, IPv4Address)
        self._originate4(arrived, icmp.error(frame.payload, source, kind, code, detail, TTL))

    def _tell6(
        self,
        arrived: RouterPort,
        frame: Frame,
        kind: icmp6.Type,
        code: int,
        detail: int,
        now: float,
        source: Address | None = None,
    ) -> None:
        packet = read_ipv6(frame.payload, cut_short=True)
        if self._ports.owner(packet.source) or is_group(frame.destination) or not icmp6.may_be_told(packet, kind):
            return
        source = source or self._ports.source_towards(packet.source, arrived)
        if source is None or not self.limit.allows(packet.source.packed, now):
            return
        assert isinstance(source, IPv6Address)
        self._originate6(arrived, frame, icmp6.error(frame.payload, source, kind, code, detail, TTL))

    def _reply4(self, arrived: RouterPort, packet: Ipv4) -> None:
        for piece in fitting4(packet, self._mtu(arrived, packet.destination, IPV4_HEADER + len(packet.payload))):
            self._originate4(arrived, piece)

    def _reply6(self, arrived: RouterPort, about: Frame, packet: Ipv6) -> None:
        for piece in fitting6(packet, self._mtu(arrived, packet.destination, IPV6_HEADER + len(packet.payload))):
            self._originate6(arrived, about, piece)

    def _mtu(self, arrived: RouterPort, destination: Address, size: int) -> int:
        """What fits the link to `destination`: what fits every link is not looked up."""
        return self._least_mtu if size <= self._least_mtu else self._ports.mtu_towards(destination, arrived)

    def _originate4(self, arrived: RouterPort, packet: Ipv4) -> None:
        self._outlet.inject(arrived.index, Frame(arrived.mac, arrived.mac, ETH_P_IP, packet.packed()).packed())

    def _originate6(self, arrived: RouterPort, about: Frame, packet: Ipv6) -> None:
        """To a link-local address there is no route: the answer goes back to where the question came from."""
        if packet.destination.is_link_local:
            direct = Ipv6(packet.source, packet.destination, packet.protocol, packet.payload, TTL - 1)
            frame = Frame(about.source, arrived.mac, ETH_P_IPV6, direct.packed())
            self._outlet.send(arrived.index, frame.packed())
            return
        self._outlet.inject(arrived.index, Frame(arrived.mac, arrived.mac, ETH_P_IPV6, packet.packed()).packed())


def _sender(frame: bytes) -> bytes:
    """The source address of the IP packet in a frame, which is not looked at more closely."""
    return frame[26:30] if frame[12:14] == b"\x08\x00" else frame[22:38]
