"""What a router says: ICMP about packets that it cannot forward, answers for its own addresses, options, fragments."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

import pytest

from runtime.protocols.internet import Ipv4, read_ipv4, read_ipv6
from runtime.routing.answers import Answers
from runtime.routing.limit import REMEMBERED, ErrorLimit, RedirectLimit
from runtime.routing.ports import Ports, Route, RouterPort
from schemas.services.router import Kind, NextHopRecord, Reason
from tests.services import router_frames as frames
from tests.services.router_frames import (
    ICMP,
    IPV4,
    IPV6,
    TCP,
    UDP,
    checksum,
    ethernet,
    icmp6,
    ipv4,
    ipv6,
    link_local,
    packed,
    ports,
)

LEFT, RIGHT, HOST = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:01"
RECEIVER_RATE = 10
HERE, FAR, HERE6, FAR6 = "10.7.1.10", "192.0.2.1", "fd00:1::10", "2001:db8::1"
NEXTHOPS = {
    1: NextHopRecord(Kind.CONNECTED, 0),
    2: NextHopRecord(Kind.CONNECTED, 1),
    3: NextHopRecord(Kind.VIA, 1, gateway=packed("10.8.2.9")),
    4: NextHopRecord(Kind.BLACKHOLE),
}
PORTS = Ports(
    (
        RouterPort(0, "left", frames.mac(LEFT), 1500, (ip_interface("10.7.1.1/24"), ip_interface("fd00:1::1/64"))),
        RouterPort(
            1,
            "right",
            frames.mac(RIGHT),
            1400,
            (ip_interface("10.7.2.1/24"), ip_interface("10.8.2.1/28"), ip_interface("fd00:2::1/64")),
        ),
    ),
    tuple(
        Route(ip_network(prefix), index)
        for prefix, index in (
            *(("10.7.1.0/24", 1), ("10.7.2.0/24", 2), ("10.8.2.0/28", 2), ("fd00:1::/64", 1), ("fd00:2::/64", 2)),
            *(("192.0.2.0/24", 3), ("198.51.100.0/24", 4)),
        )
    ),
    lambda index: NEXTHOPS[index],
)


@dataclass(slots=True)
class Recorder:
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    injected: list[tuple[int, bytes]] = field(default_factory=list)

    def send(self, port: int, frame: bytes) -> None:
        self.sent.append((port, frame))

    def inject(self, port: int, frame: bytes) -> None:
        self.injected.append((port, frame))


class Desk:
    """Answers, with what comes out of them."""

    def __init__(self) -> None:
        self.outlet = Recorder()
        self.answers = Answers(PORTS, self.outlet, ErrorLimit(1000, RECEIVER_RATE, 0.0), wall=lambda: 3.5)

    def about(self, packet: bytes, reason: Reason, nexthop: int = 0, **frame: str) -> bytes | None:
        """What is said about a packet on `left`: the IP packet that the router sends, or nothing."""
        kind = IPV4 if packet[0] >> 4 == 4 else IPV6
        arrived = ethernet(frame.get("source", HOST), frame.get("to", LEFT), kind, packet)
        if reason is Reason.LOCAL:
            self.answers.local(0, arrived, 1.0)
        elif reason is Reason.OPTIONS:
            self.answers.options(0, arrived, 1.0)
        else:
            self.answers.undeliverable(0, arrived, reason, NEXTHOPS.get(nexthop), 1.0)
        return self.said()

    def said(self) -> bytes | None:
        if not self.outlet.injected:
            return None
        ((port, out),) = self.outlet.injected
        self.outlet.injected.clear()
        assert (port, out[:12]) == (0, frames.mac(LEFT) * 2), "the programs would not take it for the router's own"
        assert len(out) >= 60
        size = (
            struct.unpack_from("!H", out, 16)[0]
            if out[12:14] == b"\x08\x00"
            else 40 + struct.unpack_from("!H", out, 18)[0]
        )
        return out[14 : 14 + size]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def error4(source: str, kind: int, code: int, about: bytes, detail: bytes = bytes(4)) -> bytes:
    """An ICMP error as RFC 792 and RFC 1812 4.3.2 have it, put together here."""
    rest = detail + about[:548]
    total = checksum(bytes((kind, code, 0, 0)) + rest)
    receiver = str(IPv4Address(about[12:16]))
    message = bytes((kind, code)) + total.to_bytes(2, "big") + rest
    return ipv4(source, receiver, message, protocol=ICMP, ttl=65, tos=0xC0, identification=0)


def error6(source: str, kind: int, code: int, about: bytes, detail: bytes = bytes(4), to: str = HERE6) -> bytes:
    return icmp6(source, to, bytes((kind, code, 0, 0)) + detail + about[:1232], hop_limit=65)


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        (Reason.EXPIRED, 11, 0),
        (Reason.NO_ROUTE, 3, 0),
        (Reason.UNREACHABLE, 3, 1),
        (Reason.RESOLVE, 3, 1),
        (Reason.PROHIBITED, 3, 13),
    ],
)
def test_ipv4_errors(desk: Desk, reason: Reason, kind: int, code: int) -> None:
    packet = ipv4(HERE, FAR, ports(), ttl=1)
    assert desk.about(packet, reason) == error4("10.7.1.1", kind, code, packet)


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        (Reason.EXPIRED, 3, 0),
        (Reason.NO_ROUTE, 1, 0),
        (Reason.PROHIBITED, 1, 1),
        (Reason.SCOPE, 1, 2),
        (Reason.RESOLVE, 1, 3),
        (Reason.UNREACHABLE, 1, 6),
    ],
)
def test_ipv6_errors(desk: Desk, reason: Reason, kind: int, code: int) -> None:
    packet = ipv6(HERE6, FAR6, ports(), hop_limit=1)
    assert desk.about(packet, reason) == error6("fd00:1::1", kind, code, packet)


def test_an_error_comes_from_the_port_that_it_leaves_by(desk: Desk) -> None:
    """RFC 1812 4.3.2.4; of its addresses, from the one in the gateway's subnet."""
    assert desk.about(ipv4("10.7.2.20", FAR), Reason.EXPIRED) == error4("10.7.2.1", 11, 0, ipv4("10.7.2.20", FAR))
    assert desk.about(ipv4("192.0.2.7", FAR), Reason.EXPIRED) == error4("10.8.2.1", 11, 0, ipv4("192.0.2.7", FAR))


def test_an_error_without_a_way_back_comes_from_where_the_packet_came_in(desk: Desk) -> None:
    for lost in ("203.0.113.1", "198.51.100.1"):
        assert desk.about(ipv4(lost, FAR), Reason.EXPIRED) == error4("10.7.1.1", 11, 0, ipv4(lost, FAR))


def test_an_error_quotes_576_bytes_in_all(desk: Desk) -> None:
    packet = ipv4(HERE, FAR, bytes(range(256)) * 5)
    said = desk.about(packet, Reason.EXPIRED)
    assert said == error4("10.7.1.1", 11, 0, packet)
    assert len(said) == 576


def test_an_ipv6_error_fits_the_least_mtu(desk: Desk) -> None:
    packet = ipv6(HERE6, FAR6, bytes(1400))
    said = desk.about(packet, Reason.EXPIRED)
    assert said == error6("fd00:1::1", 3, 0, packet)
    assert len(said) == 1280


def test_padding_of_the_frame_is_not_quoted(desk: Desk) -> None:
    packet = ipv4(HERE, FAR, b"")
    desk.answers.undeliverable(0, ethernet(HOST, LEFT, IPV4, packet + bytes(26)), Reason.EXPIRED, None, 1.0)
    assert desk.said() == error4("10.7.1.1", 11, 0, packet)


@pytest.mark.parametrize(
    "packet",
    [ipv4(HERE, FAR, bytes((kind, 0)) + bytes(30), protocol=ICMP) for kind in (3, 4, 5, 11, 12)]
    + [
        ipv4(HERE, FAR, fragment=1),
        ipv4(HERE, "224.0.0.1"),
        ipv4(HERE, "255.255.255.255"),
        ipv4("0.0.0.0", FAR),
        ipv4("127.0.0.1", FAR),
        ipv4("224.0.0.1", FAR),
        ipv4("240.0.0.1", FAR),
        ipv6(HERE6, FAR6, bytes((1, 0)) + bytes(30), protocol=58),
        ipv6(HERE6, FAR6, bytes((4, 0)) + bytes(30), protocol=58),
        ipv6(HERE6, FAR6, bytes((137, 0)) + bytes(30), protocol=58),
        ipv6(HERE6, FAR6, b"\x3a\0\0\0" + bytes(4) + bytes((3, 0)) + bytes(30), protocol=60),
        ipv6(HERE6, FAR6, b"\x11\0\0\x08" + bytes(20), protocol=44),
        ipv6(HERE6, "ff0e::1"),
        ipv6("::", FAR6),
        ipv6("ff02::1", FAR6),
    ],
    ids=str,
)
def test_about_some_packets_nothing_is_said(desk: Desk, packet: bytes) -> None:
    """RFC 1812 4.3.2.7, RFC 4443 2.4 e."""
    assert desk.about(packet, Reason.EXPIRED) is None


def test_about_link_layer_broadcasts_nothing_is_said(desk: Desk) -> None:
    assert desk.about(ipv4(HERE, FAR), Reason.EXPIRED, to="ff:ff:ff:ff:ff:ff") is None
    assert desk.about(ipv6(HERE6, FAR6), Reason.EXPIRED, to="33:33:00:00:00:01") is None


def test_about_its_own_packets_nothing_is_said(desk: Desk) -> None:
    assert desk.about(ipv4("10.7.1.1", FAR), Reason.EXPIRED, source=LEFT) is None
    assert desk.about(ipv6("fd00:1::1", FAR6), Reason.NO_ROUTE, source=LEFT) is None


@pytest.mark.parametrize("kind", [0, 8, 13])
def test_about_icmp_that_is_no_error_there_is_an_error(desk: Desk, kind: int) -> None:
    packet = ipv4(HERE, FAR, bytes((kind, 0)) + bytes(6), protocol=ICMP)
    assert desk.about(packet, Reason.EXPIRED) == error4("10.7.1.1", 11, 0, packet)


def test_a_first_fragment_is_told_about(desk: Desk) -> None:
    packet = ipv4(HERE, FAR, fragment=0x2000)
    assert desk.about(packet, Reason.EXPIRED) == error4("10.7.1.1", 11, 0, packet)


def test_errors_to_one_receiver_are_limited(desk: Desk) -> None:
    said = [desk.about(ipv4(HERE, FAR), Reason.EXPIRED) for _ in range(50)]
    assert len([each for each in said if each]) == RECEIVER_RATE
    assert desk.about(ipv4("10.7.1.11", FAR), Reason.EXPIRED), "another receiver has its own allowance"
    assert desk.answers.limit.refused == 50 - RECEIVER_RATE


def test_a_flood_is_refused_before_it_is_looked_at(desk: Desk) -> None:
    """What would not be told about is not parsed: here it is no packet at all."""
    for _ in range(RECEIVER_RATE):
        assert desk.about(ipv4(HERE, FAR), Reason.EXPIRED)
    garbage = ethernet(HOST, LEFT, IPV4, bytes(12) + packed(HERE) + bytes(4))
    desk.answers.undeliverable(0, garbage, Reason.EXPIRED, None, 1.0)
    assert desk.said() is None
    with pytest.raises(ValueError, match="version"):
        desk.answers.undeliverable(0, garbage, Reason.EXPIRED, None, 2.0)


def test_too_big_and_not_to_be_cut(desk: Desk) -> None:
    packet = ipv4(HERE, FAR, bytes(1400), fragment=0x4000)
    assert desk.about(packet, Reason.TOO_BIG, 2) == error4("10.7.1.1", 3, 4, packet, struct.pack("!HH", 0, 1400))


def test_a_held_packet_that_makes_no_sense_is_counted(desk: Desk) -> None:
    """Programs leave the checksum of a header with options to the control plane, which reads it only now."""
    broken = bytearray(ipv4(HERE, FAR, options=bytes(4)))
    broken[10] ^= 1
    desk.answers.unanswered(0, ethernet(LEFT, LEFT, IPV4, bytes(broken)), 1.0)
    assert (desk.said(), desk.answers.senseless) == (None, 1)


def test_too_big_and_its_end_missing(desk: Desk) -> None:
    """At TC a packet is longer than what comes up of it. It cannot be cut, but its sender can be told."""
    packet = ipv4(HERE, FAR, bytes(20_000), protocol=TCP, fragment=0x4000)
    assert desk.about(packet[:9586], Reason.TOO_BIG, 2) == error4("10.7.1.1", 3, 4, packet, struct.pack("!HH", 0, 1400))
    packet6 = ipv6(HERE6, FAR6, bytes(20_000), protocol=TCP)
    assert desk.about(packet6[:9586], Reason.TOO_BIG, 2) == error6("fd00:1::1", 2, 0, packet6, struct.pack("!I", 1400))
    with pytest.raises(ValueError, match="cut short"):
        desk.about(ipv4(HERE, FAR, bytes(20_000))[:9586], Reason.TOO_BIG, 2)


@pytest.mark.parametrize("fragment", [0, 0x4000])
def test_what_fits_is_neither_cut_nor_told_about(desk: Desk, fragment: int) -> None:
    """Its one piece would be as long as it was, and come up again for ever."""
    assert desk.about(ipv4(HERE, FAR, bytes(1380), fragment=fragment), Reason.TOO_BIG, 2) is None
    assert desk.about(ipv6(HERE6, FAR6, bytes(1360)), Reason.TOO_BIG, 2) is None


def test_ipv6_too_big(desk: Desk) -> None:
    packet = ipv6(HERE6, FAR6, bytes(1400))
    assert desk.about(packet, Reason.TOO_BIG, 2) == error6("fd00:1::1", 2, 0, packet, struct.pack("!I", 1400))


@pytest.mark.parametrize(
    ("size", "fragment"), [(1381, 0), (1480, 0), (4000, 0), (1400, 0x2000), (1400, 0x20B9), (1400, 0xB9)]
)
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0\x07\x07\x04\0\0\0\0\0"], ids=["plain", "options"])
def test_too_big_and_cut(desk: Desk, size: int, fragment: int, options: bytes) -> None:
    """RFC 791 3.2: put together again, it is what it was."""
    payload = bytes(index % 251 for index in range(size))
    packet = ipv4(HERE, FAR, payload, fragment=fragment, options=options, ttl=7, identification=99)
    desk.answers.undeliverable(0, ethernet(HOST, LEFT, IPV4, packet), Reason.TOO_BIG, NEXTHOPS[2], 1.0)
    pieces = [read_ipv4(frame[14:]) for _, frame in desk.outlet.injected]
    assert all(20 + len(piece.options) + len(piece.payload) <= 1400 for piece in pieces)
    assert b"".join(piece.payload for piece in pieces) == payload
    at = fragment & 0x1FFF
    for piece in pieces:
        assert (piece.fragment & 0x1FFF, piece.ttl, piece.identification) == (at, 7, 99)
        at += len(piece.payload) // 8
    more = [bool(piece.fragment & 0x2000) for piece in pieces]
    assert more == [True] * (len(pieces) - 1) + [bool(fragment & 0x2000)]
    assert pieces[0].options == options
    assert all(piece.options == options[:4] for piece in pieces[1:])


def test_ping(desk: Desk) -> None:
    message = b"\x08\0\0\0\x12\x34\0\x01" + bytes(range(56))
    request = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    said = desk.about(ipv4(HERE, "10.7.2.1", request, protocol=ICMP, tos=8, identification=5), Reason.LOCAL)
    answer = b"\0" + message[1:]
    answer = answer[:2] + checksum(answer).to_bytes(2, "big") + answer[4:]
    assert said == ipv4("10.7.2.1", HERE, answer, protocol=ICMP, ttl=65, tos=8, identification=5)


@pytest.mark.parametrize(
    "message",
    [b"\x08\0\xff\xff\x12\x34\0\x01", b"\0\0" + checksum(bytes(8)).to_bytes(2, "big") + bytes(4), b"\x08\0\0"],
)
def test_what_is_no_sound_request_is_not_answered(desk: Desk, message: bytes) -> None:
    assert desk.about(ipv4(HERE, "10.7.1.1", message, protocol=ICMP), Reason.LOCAL) is None


def test_ping_ipv6(desk: Desk) -> None:
    said = desk.about(icmp6(HERE6, "fd00:1::1", b"\x80\0\0\0\x12\x34\0\x01abc", hop_limit=64), Reason.LOCAL)
    assert said == icmp6("fd00:1::1", HERE6, b"\x81\0\0\0\x12\x34\0\x01abc", hop_limit=65)


def test_ping_of_the_subnets_routers_is_answered_by_an_address_of_one(desk: Desk) -> None:
    said = desk.about(icmp6(HERE6, "fd00:1::", b"\x80\0\0\0\x12\x34\0\x01", hop_limit=64), Reason.LOCAL)
    assert said == icmp6("fd00:1::1", HERE6, b"\x81\0\0\0\x12\x34\0\x01", hop_limit=65)


def test_ping_of_the_link_local_address_goes_straight_back(desk: Desk) -> None:
    me = link_local(LEFT)
    assert desk.about(icmp6("fe80::10", me, b"\x80\0\0\0\x12\x34\0\x01", hop_limit=64), Reason.LOCAL) is None
    ((port, frame),) = desk.outlet.sent
    reply = icmp6(me, "fe80::10", b"\x81\0\0\0\x12\x34\0\x01", hop_limit=64)
    assert (port, frame) == (0, ethernet(LEFT, HOST, IPV6, reply).ljust(60, b"\0"))


@pytest.mark.parametrize("group", ["ff02::1", "ff02::2"])
def test_ping_of_all_on_the_link_is_answered_by_an_address_of_the_port(desk: Desk, group: str) -> None:
    """RFC 4443 4.2: the source of an answer is no group. Who asks from a link-local address is answered from one."""
    request = b"\x80\0\0\0\x12\x34\0\x01"
    group_mac = f"33:33:00:00:00:0{group[-1]}"
    said = desk.about(icmp6(HERE6, group, request, hop_limit=1), Reason.LOCAL, to=group_mac)
    assert said == icmp6("fd00:1::1", HERE6, b"\x81" + request[1:], hop_limit=65)
    assert desk.about(icmp6("fe80::10", group, request, hop_limit=1), Reason.LOCAL, to=group_mac) is None
    ((port, frame),) = desk.outlet.sent
    reply = icmp6(link_local(LEFT), "fe80::10", b"\x81" + request[1:], hop_limit=64)
    assert (port, frame) == (0, ethernet(LEFT, HOST, IPV6, reply).ljust(60, b"\0"))


@pytest.mark.parametrize(
    ("header", "protocol", "code", "pointer"),
    [
        (b"\x11\0\0\1" + bytes(4), 43, 0, 42),
        (b"\x11\0\0\0" + bytes(4), 43, None, 0),
        (b"\x3c\0\0\0" + bytes(4) + b"\x11\0\x9e\4" + bytes(4), 43, 2, 50),
        (b"\x11\0\x9e\4" + bytes(4), 60, 2, 42),
        (b"\x11\0\xde\4" + bytes(4), 60, 2, 42),
        (b"\x11\0\x1e\4" + bytes(4), 60, None, 0),
    ],
    ids=["a route to go on", "a route at its end", "behind a route", "tell", "tell if no group", "skip"],
)
def test_extension_headers_for_the_router(
    desk: Desk, header: bytes, protocol: int, code: int | None, pointer: int
) -> None:
    """RFC 8200 4.2, 4.4. What can be passed over is, and there is UDP behind it."""
    packet = ipv6(HERE6, "fd00:1::1", header + ports(), protocol=protocol)
    said = desk.about(packet, Reason.LOCAL)
    if code is None:
        assert said == error6("fd00:1::1", 1, 4, packet)
    else:
        assert said == error6("fd00:1::1", 4, code, packet, struct.pack("!I", pointer))


def test_options_that_have_the_router_discard_a_packet_in_silence(desk: Desk) -> None:
    packet = ipv6(HERE6, "fd00:1::1", b"\x11\0\x5e\4" + bytes(4) + ports(), protocol=60)
    assert desk.about(packet, Reason.LOCAL) is None


def test_udp_for_the_router(desk: Desk) -> None:
    packet = ipv4(HERE, "10.7.2.1", ports(4000, 33434, bytes(20)))
    assert desk.about(packet, Reason.LOCAL) == error4("10.7.2.1", 3, 3, packet)
    packet6 = ipv6(HERE6, "fd00:2::1", ports(4000, 33434, bytes(20)), protocol=UDP)
    assert desk.about(packet6, Reason.LOCAL) == error6("fd00:2::1", 1, 4, packet6)


def test_other_protocols_for_the_router(desk: Desk) -> None:
    packet = ipv4(HERE, "10.7.1.1", bytes(20), protocol=47)
    assert desk.about(packet, Reason.LOCAL) == error4("10.7.1.1", 3, 2, packet)
    packet6 = ipv6(HERE6, "fd00:1::1", bytes(20), protocol=47)
    assert desk.about(packet6, Reason.LOCAL) == error6("fd00:1::1", 4, 1, packet6, struct.pack("!I", 6))


def echo4(size: int, *, reply: bool = False) -> bytes:
    """An echo message with so many bytes of content."""
    message = bytes((0 if reply else 8, 0, 0, 0)) + b"\x12\x34\0\1" + bytes(index % 251 for index in range(size))
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def pieces4(packet: bytes, mtu: int = 1500) -> list[bytes]:
    return [piece.packed() for piece in read_ipv4(packet).cut(mtu)]


def pieces6(packet: bytes, mtu: int = 1500) -> list[bytes]:
    return [piece.packed() for piece in read_ipv6(packet).cut(mtu, 0xC0FFEE)]


def spoken(desk: Desk) -> list[bytes]:
    """The IP packets that the router has sent, those that are sent straight back as well."""
    out = [frame[14:] for _, frame in (*desk.outlet.injected, *desk.outlet.sent)]
    desk.outlet.injected.clear()
    desk.outlet.sent.clear()
    return out


def local(desk: Desk, packets: list[bytes], now: float = 1.0) -> list[bytes]:
    """What is said to packets for the router that come one after the other."""
    for packet in packets:
        desk.answers.local(0, ethernet(HOST, LEFT, IPV4 if packet[0] >> 4 == 4 else IPV6, packet), now)
    return spoken(desk)


@pytest.mark.parametrize(("host", "mtu"), [(HERE, 1500), ("10.7.2.20", 1400), ("203.0.113.1", 1500)])
def test_a_long_ping_is_put_together_and_its_answer_cut(desk: Desk, host: str, mtu: int) -> None:
    """As fits the link that it leaves by, or, where no route leads back, the one that it came from."""
    asked = pieces4(ipv4(host, "10.7.1.1", echo4(8000), protocol=ICMP, tos=8, identification=7))
    assert local(desk, asked[:0:-1]) == []
    answer = ipv4("10.7.1.1", host, echo4(8000, reply=True), protocol=ICMP, ttl=65, tos=8, identification=7)
    assert local(desk, asked[:1]) == pieces4(answer, mtu)


def test_a_long_ping_over_ipv6(desk: Desk) -> None:
    """The answer fits every link on its way (RFC 8200 5)."""
    for host, own in ((HERE6, "fd00:1::1"), ("fe80::10", link_local(LEFT))):
        asked = icmp6(host, own, b"\x80\0\0\0\x12\x34\0\1" + bytes(8000), hop_limit=64)
        out = local(desk, pieces6(asked))
        assert max(map(len, out)) <= 1280
        identification = out[0][44:48]
        straight = host.startswith("fe80")
        expected = icmp6(own, host, b"\x81\0\0\0\x12\x34\0\1" + bytes(8000), hop_limit=64 if straight else 65)
        assert out == [piece.packed() for piece in read_ipv6(expected).cut(1280, int.from_bytes(identification, "big"))]
        assert identification != bytes(4)


def test_a_link_local_address_is_another_one_on_each_link(desk: Desk) -> None:
    asked = icmp6("fe80::10", link_local(LEFT), b"\x80\0\0\0" + bytes(2004), hop_limit=64)
    first, second = (ethernet(HOST, LEFT, IPV6, piece) for piece in pieces6(asked))
    desk.answers.local(0, first, 1.0)
    desk.answers.local(1, second, 1.0)
    assert spoken(desk) == []


def test_an_answer_that_was_asked_for_in_one_piece_is_cut_as_well(desk: Desk) -> None:
    """A port's MTU is that of what leaves by it."""
    asked = ipv4("10.7.2.20", "10.7.1.1", echo4(1450), protocol=ICMP, identification=3)
    answer = ipv4("10.7.1.1", "10.7.2.20", echo4(1450, reply=True), protocol=ICMP, ttl=65, identification=3)
    assert local(desk, [asked]) == pieces4(answer, 1400)


def test_what_is_whole_again_is_treated_as_if_it_always_was(desk: Desk) -> None:
    packet = ipv4(HERE, "10.7.2.1", ports(4000, 33434, bytes(3000)))
    assert local(desk, pieces4(packet)) == [error4("10.7.2.1", 3, 3, packet)]
    packet6 = ipv6(HERE6, "fd00:2::1", ports(4000, 33434, bytes(3000)), protocol=UDP)
    assert local(desk, pieces6(packet6)) == [error6("fd00:2::1", 1, 4, packet6)]


def test_of_what_does_not_become_whole_the_sender_is_told(desk: Desk) -> None:
    """RFC 792, RFC 8200 4.5: if the first fragment has come."""
    first, *rest = pieces4(ipv4(HERE, "10.7.2.1", echo4(4000), protocol=ICMP, identification=1))
    other = pieces4(ipv4(HERE, "10.7.2.1", echo4(4000), protocol=ICMP, identification=2))
    first6, *rest6 = pieces6(icmp6(HERE6, "fd00:1::", b"\x80\0" + bytes(4000), hop_limit=64))
    assert local(desk, [first, rest[0], other[1], other[2], first6, rest6[0]], now=1.0) == []
    desk.answers.tick(30.9)
    assert spoken(desk) == []
    desk.answers.tick(31.0)
    assert spoken(desk) == [error4("10.7.2.1", 11, 1, first)]
    desk.answers.tick(60.9)
    assert spoken(desk) == []
    desk.answers.tick(61.0)
    assert spoken(desk) == [error6("fd00:1::1", 3, 1, first6)], "an anycast address is no source"
    desk.answers.tick(100.0)
    assert spoken(desk) == []


def test_a_fragment_that_cannot_be_one(desk: Desk) -> None:
    """RFC 8200 4.5; of IPv4 ones nobody is told, nor about what may be a part of an ICMP error."""

    def fragment(content: bytes, at: int, protocol: int = UDP) -> bytes:
        return ipv6(HERE6, "fd00:1::1", struct.pack("!BBHI", protocol, 0, at, 7) + content, protocol=44)

    odd, long = fragment(bytes(12), 1), fragment(bytes(8), 65528)
    assert local(desk, [odd]) == [error6("fd00:1::1", 4, 0, odd, struct.pack("!I", 4))]
    assert local(desk, [long]) == [error6("fd00:1::1", 4, 0, long, struct.pack("!I", 42))]
    assert local(desk, [fragment(bytes(8), 65528, protocol=58)]) == []
    assert local(desk, [ipv4(HERE, "10.7.1.1", bytes(9), fragment=0x2000)]) == []


def test_neighbour_discovery_in_fragments_is_none(desk: Desk) -> None:
    """RFC 6980 5; nor is a fragment within fragments anything."""
    solicitation = icmp6(HERE6, "fd00:1::1", frames.solicitation("fd00:1::1", bytes(2000)))
    assert local(desk, pieces6(solicitation)) == []
    inner = b"".join(piece[40:] for piece in pieces6(icmp6(HERE6, "fd00:1::1", b"\x80\0" + bytes(1442)))[:1])
    assert local(desk, pieces6(ipv6(HERE6, "fd00:1::1", inner + bytes(800), protocol=44))) == []


def test_options_of_fragments_for_the_router(desk: Desk) -> None:
    """Each is looked at; the datagram is put together all the same."""
    packet = ipv4(HERE, "10.7.1.1", echo4(2000), protocol=ICMP, identification=9, options=b"\x94\x04\0\0")
    for piece in pieces4(packet):
        desk.answers.options(0, ethernet(HOST, LEFT, IPV4, piece), 1.0)
    answer = ipv4("10.7.1.1", HERE, echo4(2000, reply=True), protocol=ICMP, ttl=65, identification=9)
    assert spoken(desk) == pieces4(answer)


def segment(source: str, destination: str, sequence: int, acknowledged: int, flags: int, payload: bytes = b"") -> bytes:
    bare = struct.pack("!HHIIHHHH", 4000, 179, sequence, acknowledged, 5 << 12 | flags, 0, 0, 0) + payload
    wide = len(packed(source)) == 16
    lengths = struct.pack("!II", len(bare), TCP) if wide else struct.pack("!HH", TCP, len(bare))
    total = checksum(packed(source) + packed(destination) + lengths + bare)
    return bare[:16] + total.to_bytes(2, "big") + bare[18:]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ((100, 0, 0x02, b""), (0, 101, 0x14)),
        ((100, 0, 0x03, b"abc"), (0, 105, 0x14)),
        ((100, 777, 0x10, b"abc"), (777, 0, 0x04)),
        ((0xFFFFFFFF, 0, 0x02, b""), (0, 0, 0x14)),
        ((100, 0, 0x04, b""), None),
    ],
)
def test_tcp_for_the_router_is_reset(
    desk: Desk, asked: tuple[int, int, int, bytes], answered: tuple[int, int, int] | None
) -> None:
    """RFC 9293 3.5.2."""
    said = desk.about(ipv4(HERE, "10.7.1.1", segment(HERE, "10.7.1.1", *asked), protocol=TCP), Reason.LOCAL)
    if answered is None:
        assert said is None
        return
    assert said is not None
    got = read_ipv4(said)
    assert (str(got.source), str(got.destination), got.protocol, got.ttl) == ("10.7.1.1", HERE, TCP, 65)
    expected = segment("10.7.1.1", HERE, *answered)
    assert got.payload[:4] == struct.pack("!HH", 179, 4000)
    assert got.payload[4:16] == expected[4:16]
    lengths = struct.pack("!HH", TCP, len(got.payload))
    assert checksum(packed("10.7.1.1") + packed(HERE) + lengths + got.payload) == 0


def test_tcp_over_ipv6_is_reset(desk: Desk) -> None:
    asked = segment(HERE6, "fd00:1::1", 100, 0, 0x02)
    said = desk.about(ipv6(HERE6, "fd00:1::1", asked, protocol=TCP), Reason.LOCAL)
    assert said is not None
    assert said[40 + 13] == 0x14


def test_tcp_over_a_link_local_address_is_reset(desk: Desk) -> None:
    """To a link-local address there is no route: the reset goes straight back to the one who asked."""
    me = link_local(LEFT)
    asked = segment("fe80::10", me, 100, 0, 0x02)
    assert desk.about(ipv6("fe80::10", me, asked, protocol=TCP), Reason.LOCAL) is None
    ((port, frame),) = desk.outlet.sent
    assert (port, frame[:14]) == (0, ethernet(LEFT, HOST, IPV6, b"")[:14])
    assert frame[14 + 40 + 13] == 0x14


def with_options(options: bytes, wrong_checksum: int = 0) -> bytes:
    return ipv4(HERE, "192.0.2.1", options=options, wrong_checksum=wrong_checksum)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x01\x01\x01\x00", b"\x01\x01\x01\x00"),
        (b"\x94\x04\0\0", b"\x94\x04\0\0"),
        (b"\x07\x07\x04\0\0\0\0\0", b"\x07\x07\x08" + packed("10.8.2.1") + b"\0"),
        (b"\x07\x0b\x08\1\2\3\4\0\0\0\0\0", b"\x07\x0b\x0c\1\2\3\4" + packed("10.8.2.1") + b"\0"),
        (b"\x07\x07\x08\1\2\3\4\0", b"\x07\x07\x08\1\2\3\4\0"),
        (b"\x44\x08\x05\0" + bytes(4), b"\x44\x08\x09\0" + (3500).to_bytes(4, "big")),
        (b"\x44\x0c\x05\1" + bytes(8), b"\x44\x0c\x0d\1" + packed("10.8.2.1") + (3500).to_bytes(4, "big")),
        (b"\x44\x08\x09\0" + bytes(4), b"\x44\x08\x09\x10" + bytes(4)),
    ],
    ids=["nothing", "router alert", "route", "route, second", "route, full", "time", "address and time", "time, full"],
)
def test_options(desk: Desk, before: bytes, after: bytes) -> None:
    """RFC 791 3.1, RFC 1812 5.2.4.1. The programs count down the TTL."""
    assert desk.about(with_options(before), Reason.OPTIONS) == with_options(after)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        (b"\x07\x00\x00\x00", 21),
        (b"\x01\x07\x09\x00", 22),
        (b"\x07\x07\x03\0\0\0\0\0", 22),
        (b"\x07\x06\x04\0\0\0\0\0", 22),
        (b"\x44\x08\x04\0" + bytes(4), 22),
        (b"\x44\x08\x09\xf0" + bytes(4), 23),
    ],
)
def test_broken_options(desk: Desk, options: bytes, pointer: int) -> None:
    packet = with_options(options)
    assert desk.about(packet, Reason.OPTIONS) == error4("10.7.1.1", 12, 0, packet, bytes((pointer, 0, 0, 0)))


@pytest.mark.parametrize("kind", [131, 137])
def test_source_routes_are_dropped(desk: Desk, kind: int) -> None:
    assert desk.about(with_options(bytes((kind, 7, 4)) + packed("10.7.2.20") + b"\0"), Reason.OPTIONS) is None


def test_options_with_a_wrong_checksum_are_dropped(desk: Desk) -> None:
    with pytest.raises(ValueError, match="checksum"):
        desk.about(with_options(bytes(4), wrong_checksum=1), Reason.OPTIONS)


def test_options_for_the_router(desk: Desk) -> None:
    message = b"\x08\0" + checksum(b"\x08\0\0\0\0\0\0\1").to_bytes(2, "big") + b"\0\0\0\1"
    said = desk.about(ipv4(HERE, "10.7.1.1", message, protocol=ICMP, options=bytes(4)), Reason.OPTIONS)
    assert said is not None
    assert read_ipv4(said).payload[0] == 0


@pytest.mark.parametrize(
    ("options", "goes_on", "pointer"),
    [
        (b"\1\4" + bytes(4), True, None),
        (b"\5\2\0\0\1\0", True, None),
        (b"\x1e\4" + bytes(4), True, None),
        (b"\x5e\4" + bytes(4), False, None),
        (b"\x9e\4" + bytes(4), False, 42),
        (b"\xde\4" + bytes(4), False, 42),
        (b"\1\x09" + bytes(4), False, 42),
    ],
    ids=["pad", "router alert", "skip", "discard", "tell", "tell if no group", "beyond the header"],
)
def test_hop_by_hop(desk: Desk, options: bytes, goes_on: bool, pointer: int | None) -> None:
    """RFC 8200 4.2."""
    packet = ipv6(HERE6, FAR6, b"\x11\0" + options + ports(), protocol=0)
    said = desk.about(packet, Reason.OPTIONS)
    if goes_on:
        assert said == packet
    elif pointer is None:
        assert said is None
    else:
        code = 2 if options[0] >> 6 else 0
        assert said == error6("fd00:1::1", 4, code, packet, struct.pack("!I", pointer))


def test_checksums_of_any_header_are_right() -> None:
    for number in range(0, 0x10000, 257):
        packet = Ipv4(IPv4Address(HERE), IPv4Address(FAR), UDP, b"x", identification=number)
        assert checksum(packet.packed()[:20]) == 0
        assert read_ipv4(packet.packed()) == packet


# --- redirects --------------------------------------------------------------------------------------------------------

BETTER, BETTER6 = IPv4Address("10.7.1.9"), IPv6Address("fe80::9")
BETTER_MAC = "52:54:00:00:00:09"


def redirected6(packet: bytes, target: IPv6Address, link_address: str = "") -> bytes:
    """RFC 4861 4.5: the target, the destination, the target's link-layer address, the packet in units of 8 bytes."""
    options = bytes((2, 1)) + frames.mac(link_address) if link_address else b""
    room = 1280 - 40 - 40 - len(options) - 8
    quoted = packet[: min(len(packet), room) // 8 * 8]
    options += bytes((4, 1 + len(quoted) // 8)) + bytes(6) + quoted
    sender = str(IPv6Address(packet[8:24]))
    message = bytes((137, 0, 0, 0)) + bytes(4) + target.packed + packet[24:40] + options
    return icmp6(link_local(LEFT), sender, message)


def test_an_ipv4_sender_is_redirected_from_its_gateways_address(desk: Desk) -> None:
    """RFC 792: type 5, for the host (RFC 1812 5.2.7.2); RFC 1122 3.2.2.2: hosts believe their gateway only."""
    for packet in (ipv4(HERE, FAR), ipv4("10.7.1.11", FAR, bytes(1400))):
        desk.answers.redirect(0, ethernet(HOST, LEFT, IPV4, packet + bytes(6)), BETTER, frames.mac(BETTER_MAC), 1.0)
        assert desk.said() == error4("10.7.1.1", 5, 1, packet, BETTER.packed)


@pytest.mark.parametrize("link_address", ["", BETTER_MAC])
@pytest.mark.parametrize("size", [0, 5, 1136, 1140, 1400])
def test_an_ipv6_sender_is_redirected_by_its_neighbours_address(desk: Desk, link_address: str, size: int) -> None:
    packet = ipv6(HERE6, FAR6, bytes(size))
    mac = frames.mac(link_address) if link_address else None
    desk.answers.redirect(0, ethernet(HOST, LEFT, IPV6, packet + bytes(6)), BETTER6, mac, 1.0)
    ((port, frame),) = desk.outlet.sent
    assert (port, frame) == (0, ethernet(LEFT, HOST, IPV6, redirected6(packet, BETTER6, link_address)))
    assert len(frame) <= 14 + 1280
    assert not desk.outlet.injected


def test_an_ipv6_sender_is_redirected_to_the_destination_itself(desk: Desk) -> None:
    packet = ipv6(HERE6, "fd00:1::20")
    desk.answers.redirect(0, ethernet(HOST, LEFT, IPV6, packet), IPv6Address("fd00:1::20"), None, 1.0)
    ((_, frame),) = desk.outlet.sent
    assert frame[14 + 48 : 14 + 80] == packed("fd00:1::20") * 2


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(HERE, FAR, bytes((3, 0)) + bytes(30), protocol=ICMP),
        ipv4(HERE, FAR, bytes((5, 0)) + bytes(30), protocol=ICMP),
        ipv4(HERE, FAR, fragment=1),
        ipv4("10.7.1.1", FAR),
        icmp6(HERE6, FAR6, bytes((1, 0, 0, 0)) + bytes(44)),
        icmp6(HERE6, FAR6, bytes((137, 0, 0, 0)) + bytes(36)),
    ],
)
def test_nobody_is_redirected_because_of(desk: Desk, packet: bytes) -> None:
    """ICMP errors, later fragments (RFC 1812 4.3.2.7), redirects (RFC 4443 2.4 e), what the router sends itself."""
    version, target = (IPV4, BETTER) if packet[0] >> 4 == 4 else (IPV6, BETTER6)
    desk.answers.redirect(0, ethernet(HOST, LEFT, version, packet), target, None, 1.0)
    assert not desk.outlet.sent
    assert desk.said() is None


def test_redirects_count_among_all_errors() -> None:
    desk = Desk()
    desk.answers.limit = ErrorLimit(10, 1000, 0.0)
    assert desk.about(ipv4(HERE, FAR), Reason.EXPIRED)
    for kind, better in ((IPV4, BETTER), (IPV6, BETTER6)):
        packet = ipv4("10.7.1.77", FAR) if kind == IPV4 else ipv6("fd00:1::77", FAR6)
        desk.answers.redirect(0, ethernet(HOST, LEFT, kind, packet), better, None, 0.0)
    assert desk.said() is None
    assert not desk.outlet.sent


def test_a_host_that_does_not_listen_is_told_ever_more_rarely_and_then_no_more() -> None:
    """What Linux does: pauses that double, nine times, then silence until the host has been silent for 20 s."""
    limit, told, now = RedirectLimit(), [], 0.0
    while now < 60:
        if limit.allows("host", now):
            told.append(now)
        assert limit.allows(now, now), "others are told"
        now += 0.01
    pauses = [after - before for before, after in itertools.pairwise(told)]
    assert len(told) == 9
    for number, pause in enumerate(pauses, start=1):
        assert 0.02 * 2**number <= pause <= 0.02 * 2**number + 0.02
    assert not limit.allows("host", now + 20.4)
    assert limit.allows("host", now + 20.4 + 20.6)


def test_senders_that_were_redirected_longest_ago_are_forgotten() -> None:
    limit = RedirectLimit()
    for number in range(REMEMBERED + 1):
        assert limit.allows(number, 1.0)
    assert not limit.allows(REMEMBERED, 1.0)
    assert limit.allows(0, 1.0)
