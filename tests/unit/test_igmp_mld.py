"""IGMP, MLD and PIM hellos that scapy builds, read; queries that are built, read by scapy; and what is broken."""

from __future__ import annotations

import contextlib
import random
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from scapy.layers.igmp import IGMP, IGMPv3_MQ, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from runtime.protocols import igmp, mld
from runtime.protocols.icmp6 import link_local
from runtime.protocols.internet import checksum, transport_checksum
from runtime.protocols.membership import Join, Leave, Query, RouterHello, decoded, encoded
from runtime.protocols.pim import read_hello

V4, V6 = IPv4Address("239.1.1.1"), IPv6Address("ff05::1:1")
HERE, LINK = IPv4Address("10.0.0.1"), IPv6Address("fe80::1")
STATION = bytes.fromhex("02000000000a")


def v4(destination: str, message: Packet, **more: Any) -> bytes:
    return bytes(IP(src=str(HERE), dst=destination, ttl=1, **more) / message)


def v6(destination: str, message: Packet, **more: Any) -> bytes:
    given = {"src": str(LINK), "hlim": 1, **more}
    return bytes(IPv6(dst=destination, **given) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / message)


def summed(message: bytes) -> bytes:
    return message[:2] + checksum(message[:2] + bytes(2) + message[4:]).to_bytes(2) + message[4:]


def records4(*records: tuple[int, list[str]]) -> bytes:
    made = [IGMPv3_MR_Group(rtype=kind, maddr=str(V4), srcaddrs=sources) for kind, sources in records]
    return v4("224.0.0.22", IGMPv3_MR(records=made))


def records6(*records: tuple[int, list[str]]) -> bytes:
    made = [ICMPv6MLDMultAddrRec(rtype=kind, dst=str(V6), sources=sources) for kind, sources in records]
    return v6("ff02::16", ICMPv6MLReport2(records=made))


def hello6(message: str, **more: Any) -> bytes:
    """RFC 7761 4.9: with a checksum over a pseudo-header, to the next router only."""
    blank = bytes.fromhex(message)
    found = transport_checksum(LINK, IPv6Address("ff02::d"), 103, blank)
    given = {"src": str(LINK), "hlim": 1, **more}
    return bytes(IPv6(dst="ff02::d", nh=103, **given) / Raw(blank[:2] + found.to_bytes(2) + blank[4:]))


IGMPS: dict[str, tuple[bytes, tuple[object, ...]]] = {
    "v1 query": (v4("224.0.0.1", IGMP(type=0x11, mrcode=0)), (Query(HERE, None, 10.0),)),
    "v2 query": (v4("224.0.0.1", IGMP(type=0x11, mrcode=100)), (Query(HERE, None, 10.0),)),
    "v2 query about a group": (v4(str(V4), IGMP(type=0x11, mrcode=10, gaddr=str(V4))), (Query(HERE, V4, 1.0),)),
    "v3 query": (
        v4("224.0.0.1", IGMPv3_MQ(mrcode=100, qrv=2, qqic=125)),
        (Query(HERE, None, 10.0, robustness=2, interval_s=125),),
    ),
    "v3 query about senders": (
        v4(str(V4), IGMPv3_MQ(mrcode=10, s=1, qrv=3, gaddr=str(V4), srcaddrs=["10.0.0.7"])),
        (Query(HERE, V4, 1.0, of_sources=True, suppress=True, robustness=3),),
    ),
    "v1 report": (v4(str(V4), IGMP(type=0x12, gaddr=str(V4))), (Join(V4),)),
    "v2 report": (v4(str(V4), IGMP(type=0x16, gaddr=str(V4))), (Join(V4),)),
    "leave": (v4("224.0.0.2", IGMP(type=0x17, gaddr=str(V4))), (Leave(V4),)),
    "v3 joins": (records4((4, []), (2, []), (1, ["10.0.0.7"]), (5, ["10.0.0.7", "10.0.0.8"])), (Join(V4),) * 4),
    "v3 leaves": (records4((3, []), (1, [])), (Leave(V4), Leave(V4))),
    "v3 records that tell nothing of the group": (records4((6, ["10.0.0.7"]), (9, [])), ()),
    "router advertisement": (v4("224.0.0.106", Raw(summed(bytes([0x30, 20, 0, 0, 0, 125, 0, 2]))), proto=2),
                             (RouterHello(60),)),
    "router termination": (v4("224.0.0.106", Raw(summed(bytes([0x32, 0, 0, 0, 0, 0, 0, 0]))), proto=2),
                           (RouterHello(0),)),
    "unknown type": (v4("224.0.0.1", Raw(summed(bytes([0x7F, 0, 0, 0, 0, 0, 0, 0]))), proto=2), ()),
    "PIM hello": (v4("224.0.0.13", Raw(summed(bytes.fromhex("20000000 0002 0004 00000000 0001 0002 00d2"))), proto=103),
                  (RouterHello(210),)),
    "PIM join": (v4("224.0.0.13", Raw(summed(bytes.fromhex("2300000000000000"))), proto=103), ()),
    "UDP": (v4(str(V4), Raw(bytes(20)), proto=17), ()),
}  # fmt: skip

MLDS: dict[str, tuple[bytes, tuple[object, ...]]] = {
    "v1 query": (v6("ff02::1", ICMPv6MLQuery(mrd=10000)), (Query(LINK, None, 10.0),)),
    "v1 query about a group": (v6(str(V6), ICMPv6MLQuery(mrd=1000, mladdr=str(V6))), (Query(LINK, V6, 1.0),)),
    "v2 query": (
        v6("ff02::1", ICMPv6MLQuery2(mrd=10000, QRV=2, QQIC=125)),
        (Query(LINK, None, 10.0, robustness=2, interval_s=125),),
    ),
    "v2 query about senders": (
        v6(str(V6), ICMPv6MLQuery2(mrd=1000, S=1, QRV=3, mladdr=str(V6), sources=["2001:db8::1"])),
        (Query(LINK, V6, 1.0, of_sources=True, suppress=True, robustness=3),),
    ),
    "v1 report": (v6(str(V6), ICMPv6MLReport(mladdr=str(V6))), (Join(V6),)),
    "v1 report without an address": (v6(str(V6), ICMPv6MLReport(mladdr=str(V6)), src="::"), (Join(V6),)),
    "done": (v6("ff02::2", ICMPv6MLDone(mladdr=str(V6))), (Leave(V6),)),
    "v2 joins": (records6((4, []), (2, []), (1, ["2001:db8::1"]), (5, ["2001:db8::1"])), (Join(V6),) * 4),
    "v2 leaves": (records6((3, []), (1, [])), (Leave(V6), Leave(V6))),
    "v2 records that tell nothing of the group": (records6((6, ["2001:db8::1"])), ()),
    "PIM hello": (hello6("20000000"), (RouterHello(105.0),)),
}  # fmt: skip

EVERY = [pytest.param(igmp.read, *row, id=f"IGMP {name}") for name, row in IGMPS.items()]
EVERY += [pytest.param(mld.read, *row, id=f"MLD {name}") for name, row in MLDS.items()]


@pytest.mark.parametrize(("read", "packet", "messages"), EVERY)
def test_what_is_told(read: Any, packet: bytes, messages: tuple[object, ...]) -> None:
    assert read(packet) == messages
    assert read(packet + bytes(18)) == messages, "padding of the frame is no part of the packet"


@pytest.mark.parametrize(("read", "packet", "messages"), EVERY)
def test_what_is_cut_short_is_refused(read: Any, packet: bytes, messages: tuple[object, ...]) -> None:
    for length in range(len(packet)):
        with pytest.raises(ValueError, match=r"cut short|lengths or version|version"):
            read(packet[:length])


@pytest.mark.parametrize(("read", "packet", "messages"), EVERY)
def test_what_was_changed_on_its_way_tells_nothing(read: Any, packet: bytes, messages: tuple[object, ...]) -> None:
    """Checksums of IPv4 and of the message, or a header that says that it is another one now."""
    if not messages:
        return
    for at in range(len(packet)):
        broken = packet[:at] + bytes([packet[at] ^ 0x40]) + packet[at + 1 :]
        try:
            found = read(broken)
        except ValueError:
            continue
        without = (*range(4), *range(41, 48))  # class, flow label, and hop-by-hop options
        assert found == () or (read is mld.read and at in without)


def test_wild_packets_are_refused_or_tell_something() -> None:
    """Nothing but ValueError comes of bytes that somebody made up, with checksums that are right."""
    generator = random.Random(4541)
    for _ in range(4000):
        message = summed(generator.choice(b"\x11\x12\x16\x17\x22\x30\x32").to_bytes() + generator.randbytes(31))
        message = summed(message[: generator.randrange(8, 32)])
        packet = bytearray(generator.choice([packet for _, packet, _ in map(_row, EVERY)]))
        for _ in range(generator.randrange(3)):
            packet[generator.randrange(len(packet))] = generator.randrange(256)
        for read, content in ((igmp.read, v4(str(V4), Raw(message), proto=2)), (mld.read, bytes(packet))):
            with contextlib.suppress(ValueError):
                assert isinstance(read(content), tuple)


def _row(case: Any) -> tuple[Any, bytes, tuple[object, ...]]:
    read, packet, messages = case.values
    return read, packet, messages


def test_a_record_that_goes_on_behind_the_end_is_refused() -> None:
    for message in (
        bytes.fromhex("22000000 0000 0002 04000000 ef010101"),
        bytes.fromhex("22000000 0000 0001 04000005 ef010101"),
        bytes.fromhex("22000000 0000 0001 04050000 ef010101"),
    ):
        with pytest.raises(ValueError, match="a record is cut short"):
            igmp.read(v4("224.0.0.22", Raw(summed(message)), proto=2))


@pytest.mark.parametrize(
    ("more", "why"),
    [({"src": "2001:db8::1"}, "not of this link"), ({"hlim": 64}, "not of this link")],
    ids=["source", "hop limit"],
)
def test_what_is_of_another_link_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        mld.read(v6(str(V6), ICMPv6MLReport(mladdr=str(V6)), **more))
    with pytest.raises(ValueError, match=why):
        mld.read(hello6("20000000", **more))


def test_a_query_from_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="a query from nobody"):
        mld.read(v6("ff02::1", ICMPv6MLQuery(), src="::"))


def test_a_fragment_is_refused() -> None:
    with pytest.raises(ValueError, match="a fragment"):
        igmp.read(v4(str(V4), IGMP(type=0x16, gaddr=str(V4)), flags="MF"))


def test_an_option_of_a_hello_without_an_end() -> None:
    assert read_hello(bytes.fromhex("20000000 0001 0002")) == (RouterHello(105.0),)
    assert read_hello(bytes.fromhex("2000")) == ()


@pytest.mark.parametrize("bits", [4, 12])
def test_codes_of_large_values(bits: int) -> None:
    """RFC 3376 4.1.1: exact below the mark, rounded down by less than one part in 16 above it."""
    mark = 1 << bits + 3
    for value in (*range(1, 300), 1023, 5000, 31744, 33000, 100_000, 8_000_000):
        code = encoded(value, bits)
        assert code < 2 * mark
        found = decoded(code, bits)
        most = decoded(2 * mark - 1, bits)
        assert found == value if value < mark else min(value, most) * 15 / 16 <= found <= value
    assert (decoded(0x80, 4), decoded(0xFF, 4)) == (128, 31744)
    assert (decoded(0x8000, 12), decoded(0xFFFF, 12)) == (32768, 8387584)


@pytest.mark.parametrize("group", [None, V4])
def test_an_igmp_query_as_scapy_reads_it(group: IPv4Address | None) -> None:
    asked = Query(HERE, group, 10.0, robustness=2, interval_s=125)
    frame = igmp.query(STATION, asked).packed()
    assert igmp.read(frame[14:]) == (asked,)
    read = Ether(frame)
    to = "239.1.1.1" if group else "224.0.0.1"
    assert (read.dst, read.src) == ("01:00:5e:01:01:01" if group else "01:00:5e:00:00:01", "02:00:00:00:00:0a")
    assert (read[IP].dst, read[IP].ttl, read[IP].tos, len(read[IP].options)) == (to, 1, 0xC0, 1)
    message = read[IGMPv3_MQ]
    assert (message.gaddr, message.mrcode, message.qrv, message.qqic) == (str(group or "0.0.0.0"), 100, 2, 125)


@pytest.mark.parametrize("group", [None, V6])
def test_an_mld_query_as_scapy_reads_it(group: IPv6Address | None) -> None:
    asked = Query(link_local(STATION), group, 10.0, robustness=2, interval_s=125)
    frame = mld.query(STATION, asked).packed()
    assert mld.read(frame[14:]) == (asked,)
    read = Ether(frame)
    to = str(group or "ff02::1")
    assert (read.dst, read[IPv6].dst, read[IPv6].src) == (
        "33:33:00:01:00:01" if group else "33:33:00:00:00:01",
        to,
        "fe80::ff:fe00:a",
    )
    assert (read[IPv6].hlim, read[IPv6ExtHdrHopByHop].options[0].otype) == (1, 5)
    message = read[ICMPv6MLQuery2]
    assert (message.mladdr, message.mrd, message.QRV, message.QQIC) == (str(group or "::"), 10000, 2, 125)
